"""A line chart as SVG text: time along, a figure upwards by powers of ten."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Final

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 640, 340
# Room for a legend of three lines above the curves, which may be anywhere below.
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 60, 36
_LEGEND_STEP = 16
_COLOURS: Final = ("#1f5fa8", "#b3541e", "#2f7d4f", "#7a3f93")
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3")


def log_chart(lines: Mapping[str, Points], *, along: str) -> str:
    """Draw lines over 0 to 1.

    Args:
        lines: name to (place, value) points; the places are 0 to 1, and values that are not
            positive, which powers of ten do not reach, leave a gap.
        along: what the places are.

    Returns:
        an svg element, or a paragraph where no value is positive.
    """
    kept = {
        name: [(x, y) for x, y in points if y > 0 and math.isfinite(y)]
        for name, points in lines.items()
    }
    values = [y for points in kept.values() for _, y in points]
    if not values:
        return "<p>No difference in any row.</p>"
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        *(_level(power, low, high) for power in range(low, high + 1)),
        *(_place(tenth / 5) for tenth in range(6)),
        _text(_across(0.5), _HEIGHT - 4, along, "middle"),
    ]
    for index, (name, points) in enumerate(kept.items()):
        parts += [_line(points, low, high, index), _legend(name, index)]
    return "\n".join([*parts, "</svg>"])


def _across(x: float) -> float:
    return _LEFT + x * (_WIDTH - _LEFT - _RIGHT)


def _up(y: float, low: int, high: int) -> float:
    share = (math.log10(y) - low) / (high - low)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _level(power: int, low: int, high: int) -> str:
    y = _up(10.0**power, low, high)
    rule = f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
    return rule + _text(_LEFT - 6, y + 4, f"1e{power}", "end")


def _place(x: float) -> str:
    return _text(_across(x), _HEIGHT - _BOTTOM + 16, f"{x:g}", "middle")


def _line(points: Points, low: int, high: int, index: int) -> str:
    places = " ".join(f"{_across(x):.1f},{_up(y, low, high):.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" {_pen(index)}/>'


def _legend(name: str, index: int) -> str:
    x, y = _LEFT, _LEGEND_STEP * index + 10
    return f'<path d="M{x} {y}h28" {_pen(index)}/>' + _text(x + 36, y + 4, name, "start")


def _pen(index: int) -> str:
    # Dashes too, for eyes and printers without colours.
    colour, dashes = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
    return f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333">'
        f"{html.escape(words)}</text>"
    )
