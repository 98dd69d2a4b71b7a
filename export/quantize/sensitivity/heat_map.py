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
_INCHES_A_ROW: Final = 0.2
_TITLES: Final = {"estimate": "estimate of the clean image", "final": "final state"}


def plot_heat_map(found: Sensitivity, path: Path) -> None:
    """Draw relative errors, a row a layer and a column a stratum of time, in powers of ten.

    Args:
        found: what was measured; final states have a panel of their own where they are there.
        path: PNG file, replaced if it is there.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figures, colours = (require(f"matplotlib.{name}", "eval") for name in ("figure", "colors"))
    kinds = [kind for kind in _TITLES if getattr(found.layers[0], kind)]
    height = 1.6 + _INCHES_A_ROW * len(found.layers)
    figure = figures.Figure(figsize=(4.0 + 2.6 * len(kinds), height), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        values = np.array([getattr(layer, kind) for layer in found.layers])
        # A layer that changes nothing has no place among powers of ten.
        shown = np.ma.masked_less_equal(values, 0.0)
        image = axes.imshow(shown, aspect="auto", norm=colours.LogNorm(), cmap="viridis")
        axes.set_title(_TITLES[kind])
        _label(axes, found.times)
        figure.colorbar(image, ax=axes, location="bottom", label="relative error", pad=0.02)
    panels[0].set_yticks(range(len(found.layers)), [layer.name for layer in found.layers])
    panels[0].tick_params(axis="y", labelsize=7)
    buffer = io.BytesIO()
    # The library's version would make equal maps unequal files.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())


def _label(axes: Any, times: Sequence[float]) -> None:
    ends = [*times[1:], 1.0]
    words = [f"{begin:.2f}-{end:.2f}" for begin, end in zip(times, ends, strict=True)]
    axes.set_xticks(range(len(times)), words, fontsize=8)
    axes.set_xlabel("t, 0 noise to 1 data")
