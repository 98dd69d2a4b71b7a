"""Error over bytes as layer after layer is excluded from quantization."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.sensitivity.layer_errors import LayerError
from minit2i_deploy.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """The first layers of the order excluded: bytes of the step graph, and the measured value."""

    num_excluded: int
    num_bytes: int
    value: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; an infinite PSNR is None."""
        value = self.value if math.isfinite(self.value) else None
        return {"num_excluded": self.num_excluded, "bytes": self.num_bytes, "value": value}


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetCurve:
    """Points from all layers quantized to none.

    Args:
        kind: of the values: "psnr" in decibels, or "score", the share of captions lost.
        points: by the number of excluded layers.
    """

    kind: str
    points: tuple[CurvePoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"kind": self.kind, "points": [point.to_dict() for point in self.points]}


def curve_counts(order: Sequence[LayerError], num_points: int) -> list[int]:
    """Numbers of layers whose weights are nearly equal steps, from none to all but the last.

    Without any quantized layer there is no error to measure, so the last is always quantized.

    Args:
        order: layers from ``rank_layers``, at least one.
        num_points: at least 2; there are fewer where layers are larger than a step.

    Raises:
        UsageError: fewer than 2 points.
    """
    if num_points < 2:
        raise UsageError(f"expected at least 2 points of a curve, got {num_points}")
    sizes = [layer.num_weights for layer in order[:-1]]
    totals = [sum(sizes[:count]) for count in range(len(order))]
    targets = (totals[-1] * index / (num_points - 1) for index in range(num_points))
    counts = (
        min(range(len(totals)), key=lambda count: abs(totals[count] - target)) for target in targets
    )
    return sorted(set(counts))


def measure_curve(
    order: Sequence[LayerError],
    num_points: int,
    kind: str,
    value_of: Callable[[Collection[str]], float],
    bytes_of: Callable[[Collection[str]], int],
    progress: Progress = no_progress,
) -> BudgetCurve:
    """Measure the step graph at several numbers of excluded layers.

    Args:
        order: layers from ``rank_layers``.
        num_points: at least 2.
        kind: of the values.
        value_of: measures the graph with these layers excluded.
        bytes_of: its bytes.
        progress: called with the share that is done and the number of layers.

    Raises:
        UsageError: fewer than 2 points.
    """
    names = [layer.name for layer in order]
    counts = curve_counts(order, num_points)
    points = []
    for index, count in enumerate(counts):
        progress(index / len(counts), f"curve, {count} layers excluded")
        exclude = frozenset(names[:count])
        points.append(
            CurvePoint(num_excluded=count, num_bytes=bytes_of(exclude), value=value_of(exclude))
        )
    return BudgetCurve(kind=kind, points=tuple(points))
