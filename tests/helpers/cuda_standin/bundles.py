"""Bundles with the published networks' sizes and random weights, as ``minit2i export`` writes them.

Nothing is verified: values do not matter on the stand-in, and verifying takes most of the time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.random_release import write_release
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.config import VARIANTS

_VOCABULARY = 4096


def write_network(folder: Path, variant: str, blocks: int) -> Path:
    """A release of one of ``config.VARIANTS`` with so many double blocks and a T5 of one layer."""
    config = dataclasses.replace(VARIANTS[variant], depth_double=blocks)
    write_release(folder, config, t5_layers=1, vocabulary=_VOCABULARY)
    return folder


def export_for_cuda(release: Path, folder: Path, precision: str) -> Bundle:
    """Export with the settings of ``minit2i export --for cuda``, unverified."""
    from minit2i_deploy.export import ExportOptions, export_bundle
    from minit2i_deploy.export.choices import choose

    choice = choose("cuda", precision)
    names = {field.name for field in dataclasses.fields(ExportOptions)}
    settings = {name: getattr(choice, name) for name in names if hasattr(choice, name)}
    unverified: dict[str, Any] = {
        "_record_reference": lambda *_: None,
        "_check_in_torch": lambda *_: [],
        "_check_in_onnxruntime": lambda *_: [],
        "OVERFLOWING": (),
    }
    with mock.patch.multiple("minit2i_deploy.export.write", **unverified):
        return export_bundle(release, folder, ExportOptions(**settings))
