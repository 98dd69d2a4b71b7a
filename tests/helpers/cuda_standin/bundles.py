"""Bundles with the published networks' sizes and random weights, as ``minit2i export`` writes them.

Nothing is verified: values do not matter on the stand-in, and verifying takes most of the time.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final
from unittest import mock

from benchmarks.random_release import write_release
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.config import VARIANTS

# The ends of the first and the last block differ from those of all others.
BLOCKS: Final = 3
# Of the shipped tokenizer, and more.
_VOCABULARY: Final = 4096


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="minit2i-cuda-bundles-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def small_bundle(variant: str, precision: str) -> Path:
    """A published network with BLOCKS blocks, exported once a process. Do not write into it."""
    release = _folder() / variant
    if not release.exists():
        write_network(release, variant, BLOCKS)
    return export_for_cuda(release, _folder() / f"{variant}-{precision}", precision).path


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
