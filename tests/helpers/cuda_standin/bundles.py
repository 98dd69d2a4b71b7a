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
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import numpy as np

from benchmarks.random_release import write_release
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.config import VARIANTS

if TYPE_CHECKING:
    from minit2i_deploy.export.quantize import Calibration

# The ends of the first and the last block differ from those of all others.
BLOCKS: Final = 3
# Of the shipped tokenizer, and more.
_VOCABULARY: Final = 4096
INT8: Final = "int8"
# Variant and precision of what is counted; INT8 is what `minit2i quantize` makes of fp16.
NETWORKS: Final = (
    ("b-16", "fp16"),
    ("b-16", "bf16"),
    ("b-16", "fp32"),
    ("b-16", INT8),
    ("l-16", "fp16"),
)


@functools.cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="minit2i-cuda-bundles-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def small_bundle(variant: str, precision: str) -> Path:
    """A published network with BLOCKS blocks, exported once a process. Do not write into it."""
    folder = _folder() / variant
    if not folder.exists():
        write_network(folder / "release", variant, BLOCKS)
    return bundle_for_cuda(folder / "release", folder, precision).path


def write_network(folder: Path, variant: str, blocks: int) -> Path:
    """A release of one of ``config.VARIANTS`` with so many double blocks and a T5 of one layer."""
    config = dataclasses.replace(VARIANTS[variant], depth_double=blocks)
    write_release(folder, config, t5_layers=1, vocabulary=_VOCABULARY)
    return folder


def bundle_for_cuda(release: Path, folder: Path, precision: str) -> Bundle:
    """A bundle in a folder of bundles, named by its precision; int8 is made from that of fp16."""
    path = folder / precision
    if path.exists():
        return Bundle.open(path)
    if precision == INT8:
        return quantize_unmeasured(bundle_for_cuda(release, folder, "fp16"), path)
    return export_for_cuda(release, path, precision)


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


def quantize_unmeasured(source: Bundle, folder: Path) -> Bundle:
    """A bundle of scheme int8 whose ranges are all 1: calibrating takes minutes at these sizes."""
    from minit2i_deploy.export.quantize import QuantizeOptions, quantize_bundle

    unmeasured: dict[str, Any] = {
        "calibrate": _ranges_of_one,
        "measure": lambda *_, **__: [],
    }
    package = "minit2i_deploy.export.quantize"
    with (
        mock.patch.multiple(f"{package}.bundle_quantization", **unmeasured),
        mock.patch(f"{package}.bundle_writing.OVERFLOWING", ()),
    ):
        return quantize_bundle(source.path, folder, QuantizeOptions(scheme=INT8, smoothing=False))


def _ranges_of_one(bundle: Bundle, *_: object) -> Calibration:
    from minit2i_deploy.export.quantize import Calibration, QuantizableGraph

    step = QuantizableGraph.read(bundle.graph_path("transformer"))
    ranges = {site.name: np.ones((1, site.width), np.float32) for site in step.sites}
    return Calibration(meta={}, absmax=ranges, activations=ranges)
