"""A scatter and a histogram as SVG text, narrow enough for a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.evaluation.compare.chart import svg_text

_WIDTH: Final = 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 12, 40
_SCATTER_HEIGHT: Final = 300
_HISTOGRAM_HEIGHT: Final = 96
# Free room around the points, as a share of their spread.
_ROOM: Final = 0.12
_NUM_TICKS: Final = 5
# Of the labels' font, for labels that would overlap.
_LINE, _CHAR = 13.0, 6.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A named point, with the ends of a vertical whisker if it has such."""

    name: str
    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Value to pixel, linear; ``ticks`` are round values inside."""

    low: float
    high: float
    begin: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], begin: float, end: float) -> Scale:
        """A scale with room around the values."""
        low, high = min(values), max(values)
        room = _ROOM * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low=low - room, high=high + room, begin=begin, end=end)

    def pixel(self, value: float) -> float:
        """Place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / _NUM_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        # Rounded, or a multiple of 0.1 shows as 0.30000000000000004.
        return [round(index * step, 10) for index in range(first, last + 1)]


def scatter(
    points: Sequence[Point], *, x_label: str, y_label: str, line: tuple[str, float] | None = None
) -> str:
    """Named points.

    Args:
        points: at least one, with finite values.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        line: name and x of a vertical line, for a reference that has no y.
    """
    xs = [point.x for point in points] + ([] if line is None else [line[1]])
    ys = [end for point in points for end in (point.y, *(point.interval or ()))]
    across = Scale.over(xs, _LEFT, _WIDTH - _RIGHT)
    up = Scale.over(ys, _SCATTER_HEIGHT - _BOTTOM, _TOP)
    parts = [
        _svg(_SCATTER_HEIGHT, f"{y_label} over {x_label}"),
        *(_level(up.pixel(tick), f"{tick:g}") for tick in up.ticks()),
        *(_tick(across.pixel(tick), _SCATTER_HEIGHT, f"{tick:g}") for tick in across.ticks()),
        svg_text((_LEFT + _WIDTH) / 2, _SCATTER_HEIGHT - 6, x_label, "middle"),
        f'<g transform="rotate(-90 12 {_SCATTER_HEIGHT / 2})">'
        + svg_text(12, _SCATTER_HEIGHT / 2, y_label, "middle")
        + "</g>",
    ]
    if line is not None:
        parts += _reference_line(across.pixel(line[1]), line[0])
    parts += [_mark(point, across, up) for point in points]
    return "\n".join([*parts, *_names(points, across, up), "</svg>"])


def histogram(values: Sequence[float], bins: Sequence[float], *, label: str, top: int) -> str:
    """Counts of values between the edges of bins.

    Args:
        values: what is counted; infinite ones count into the last bin.
        bins: rising edges, at least two.
        label: of the horizontal axis.
        top: count of the highest bar.
    """
    across = Scale(low=bins[0], high=bins[-1], begin=_LEFT, end=_WIDTH - _RIGHT)
    up = Scale(low=0.0, high=float(max(top, 1)), begin=_HISTOGRAM_HEIGHT - _BOTTOM, end=_TOP)
    parts = [
        _svg(_HISTOGRAM_HEIGHT, f"counts by {label}"),
        _level(up.pixel(0), "0"),
        _level(up.pixel(top), f"{top}"),
        *(_tick(across.pixel(tick), _HISTOGRAM_HEIGHT, f"{tick:g}") for tick in across.ticks()),
        svg_text((_LEFT + _WIDTH) / 2, _HISTOGRAM_HEIGHT - 6, label, "middle"),
    ]
    for index, count in enumerate(bin_counts(values, bins)):
        x, width = across.pixel(bins[index]), across.pixel(bins[index + 1])
        y = up.pixel(count)
        parts.append(
            f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - x - 1:.1f}" '
            f'height="{up.pixel(0) - y:.1f}" class="s1"/>'
        )
    return "\n".join([*parts, "</svg>"])


def bin_edges(values: Sequence[float], num_bins: int = 24) -> list[float]:
    """Equal bins at round edges, over the finite values."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    rough = (high - low) / num_bins or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= rough)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    return [index * step for index in range(first, last + 1)]


def bin_counts(values: Sequence[float], bins: Sequence[float]) -> list[int]:
    """Number of values in each bin, the upper edge excluded; those above are in the last."""
    counts = [0] * (len(bins) - 1)
    for value in values:
        index = sum(value >= edge for edge in bins[1:-1])
        counts[index] += 1
    return counts


def _svg(height: int, text: str) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" role="img" '
        f'aria-label="{text}" font-family="system-ui, sans-serif" font-size="11">'
    )


def _level(y: float, text: str) -> str:
    rule = f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" class="grid"/>'
    return rule + svg_text(_LEFT - 5, y + 4, text, "end")


def _tick(x: float, height: int, text: str) -> str:
    y = height - _BOTTOM
    return f'<path d="M{x:.1f} {y}v4" class="grid"/>' + svg_text(x, y + 16, text, "middle")


def _reference_line(x: float, name: str) -> list[str]:
    bottom = _SCATTER_HEIGHT - _BOTTOM
    is_right = x > _WIDTH / 2
    anchor, gap = ("end", -5) if is_right else ("start", 5)
    return [
        f'<path d="M{x:.1f} {_TOP}V{bottom}" class="reference-line"/>',
        svg_text(x + gap, bottom - 6, name, anchor),
    ]


def _mark(point: Point, across: Scale, up: Scale) -> str:
    x, y = across.pixel(point.x), up.pixel(point.y)
    whisker = ""
    if point.interval is not None:
        low, high = (up.pixel(end) for end in point.interval)
        whisker = f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" class="whisker"/>'
    return f'{whisker}<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="s1"/>'


def _names(points: Sequence[Point], across: Scale, up: Scale) -> list[str]:
    """The points' names beside them, moved down where one would cover another."""
    boxes: list[tuple[float, float, float]] = []
    texts = []
    for point in sorted(points, key=lambda point: up.pixel(point.y)):
        x, y = across.pixel(point.x), up.pixel(point.y) + 4
        width = _CHAR * len(point.name)
        is_right = x + 9 + width > _WIDTH
        begin = x - 9 - width if is_right else x + 9
        # From top to bottom, so that a name that moves down meets only those above it.
        while any(
            abs(y - other) < _LINE and begin < stop and start < begin + width
            for other, start, stop in boxes
        ):
            y += 1.0
        boxes.append((y, begin, begin + width))
        anchor, place = ("end", x - 9) if is_right else ("start", x + 9)
        texts.append(svg_text(place, y, point.name, anchor))
    return texts
