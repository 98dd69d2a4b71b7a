"""The curve of error over bytes as a PNG file."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import require
from minit2i_deploy.export.quantize.sensitivity.budget_curve import BudgetCurve
from minit2i_deploy.export.quantize.sensitivity.results_file import Sensitivity
from minit2i_deploy.io.files import atomic_write_bytes

_DPI: Final = 110
_LABELS: Final = {"psnr": "PSNR to the unquantized images, dB", "score": "share of captions lost"}


def plot_curve(results: Sensitivity, curve: BudgetCurve, path: Path) -> None:
    """Plot the curve, the budget, and the layers excluded at each point.

    Args:
        results: the curve's run, for its scheme and its budget.
        curve: at least one point.
        path: PNG file, replaced if it exists.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = require("matplotlib.figure", "eval").Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    points = [point for point in curve.points if math.isfinite(point.value)]
    sizes = [point.num_bytes / 1e6 for point in points]
    axes.plot(sizes, [point.value for point in points], marker="o")
    for size, point in zip(sizes, points, strict=True):
        axes.annotate(
            str(point.num_excluded),
            (size, point.value),
            textcoords="offset points",
            xytext=(0, 7),
            ha="center",
            fontsize=8,
        )
    selection = results.selection
    if selection is not None and selection.budget.kind == curve.kind:
        limit = selection.budget.limit
        axes.axhline(limit, color="0.4", linestyle="--", label=f"budget {limit:g}")
        axes.legend()
    axes.margins(y=0.12)
    axes.grid(visible=True, alpha=0.3)
    axes.set_xlabel("step graph, MB; at each point the number of excluded layers")
    axes.set_ylabel(_LABELS[curve.kind])
    axes.set_title(f"{results.about['scheme']}, {len(results.layers)} layers")
    buffer = io.BytesIO()
    # The default records the library's version, so that equal curves would be unequal files.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())
