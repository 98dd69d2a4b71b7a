"""The heat map of layers and times as a PNG file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import require
from minit2i_deploy.export.quantize.sensitivity.results_file import Sensitivity
from minit2i_deploy.io.files import atomic_write_bytes

_DPI: Final = 110
_INCHES_PER_LAYER: Final = 0.2
_TITLES: Final = {"estimate": "estimate of the clean image", "final": "final state"}


def plot_heat_map(results: Sensitivity, path: Path) -> None:
    """Plot relative errors by layer and stratum of time, on a logarithmic scale.

    Args:
        results: with one panel, or two if final states were measured.
        path: PNG file, replaced if it exists.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figures, colors = (require(f"matplotlib.{name}", "eval") for name in ("figure", "colors"))
    kinds = [kind for kind in _TITLES if getattr(results.layers[0], kind)]
    height = 1.6 + _INCHES_PER_LAYER * len(results.layers)
    figure = figures.Figure(figsize=(4.0 + 2.6 * len(kinds), height), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        values = np.array([getattr(layer, kind) for layer in results.layers])
        # A logarithmic scale has no place for a layer that changes nothing.
        positive = np.ma.masked_less_equal(values, 0.0)
        image = axes.imshow(positive, aspect="auto", norm=colors.LogNorm(), cmap="viridis")
        axes.set_title(_TITLES[kind])
        _label(axes, results.times)
        figure.colorbar(image, ax=axes, location="bottom", label="relative error", pad=0.02)
    panels[0].set_yticks(range(len(results.layers)), [layer.name for layer in results.layers])
    panels[0].tick_params(axis="y", labelsize=7)
    buffer = io.BytesIO()
    # The default records the library's version, so that equal maps would be unequal files.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())


def _label(axes: Any, times: Sequence[float]) -> None:
    ends = [*times[1:], 1.0]
    labels = [f"{begin:.2f}-{end:.2f}" for begin, end in zip(times, ends, strict=True)]
    axes.set_xticks(range(len(times)), labels, fontsize=8)
    axes.set_xlabel("t, 0 noise to 1 data")
