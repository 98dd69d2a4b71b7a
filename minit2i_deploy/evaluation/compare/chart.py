"""A line chart as SVG text, with a logarithmic vertical axis."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Final

Points = Sequence[tuple[float, float]]

# Wider would be scaled down on a phone until nobody can read it.
_WIDTH, _HEIGHT = 480, 340
# Margins; at the top there is room for a legend of three lines.
_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 64, 16, 60, 36
_LEGEND_STEP = 16
_NUM_COLORS: Final = 4
_DASHES: Final = ("", "7 3", "2 3", "9 3 2 3")


def log_chart(lines: Mapping[str, Points], *, label: str) -> str:
    """Draw lines over 0 to 1.

    Args:
        lines: name to (x, y) points; x is 0 to 1, and points whose y is not positive are
            skipped.
        label: of the horizontal axis.

    Returns:
        an svg element, or a paragraph if no value is positive.
    """
    positive = {
        name: [(x, y) for x, y in points if y > 0 and math.isfinite(y)]
        for name, points in lines.items()
    }
    values = [y for points in positive.values() for _, y in points]
    if not values:
        return "<p>No difference in any row.</p>"
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">',
        *(_level(power, low, high) for power in range(low, high + 1)),
        *(_tick(fifth / 5) for fifth in range(6)),
        svg_text(_pixel_x(0.5), _HEIGHT - 4, label, "middle"),
    ]
    for index, (name, points) in enumerate(positive.items()):
        parts += [_line(points, low, high, index), _legend(name, index)]
    return "\n".join([*parts, "</svg>"])


def _pixel_x(x: float) -> float:
    return _MARGIN_LEFT + x * (_WIDTH - _MARGIN_LEFT - _MARGIN_RIGHT)


def _pixel_y(y: float, low: int, high: int) -> float:
    share = (math.log10(y) - low) / (high - low)
    return _HEIGHT - _MARGIN_BOTTOM - share * (_HEIGHT - _MARGIN_TOP - _MARGIN_BOTTOM)


def _level(power: int, low: int, high: int) -> str:
    y = _pixel_y(10.0**power, low, high)
    rule = f'<path d="M{_MARGIN_LEFT} {y:.1f}H{_WIDTH - _MARGIN_RIGHT}" class="grid"/>'
    return rule + svg_text(_MARGIN_LEFT - 6, y + 4, f"1e{power}", "end")


def _tick(x: float) -> str:
    return svg_text(_pixel_x(x), _HEIGHT - _MARGIN_BOTTOM + 16, f"{x:g}", "middle")


def _line(points: Points, low: int, high: int, index: int) -> str:
    places = " ".join(f"{_pixel_x(x):.1f},{_pixel_y(y, low, high):.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" {_pen(index)}/>'


def _legend(name: str, index: int) -> str:
    x, y = _MARGIN_LEFT, _LEGEND_STEP * index + 10
    return f'<path d="M{x} {y}h28" {_pen(index)}/>' + svg_text(x + 36, y + 4, name, "start")


def _pen(index: int) -> str:
    # Dashes as well as colours, for readers and printers that do not see colours.
    color, dashes = index % _NUM_COLORS + 1, _DASHES[index % len(_DASHES)]
    return f'class="l{color}" stroke-width="2" stroke-dasharray="{dashes}"'


def svg_text(x: float, y: float, text: str, anchor: str) -> str:
    """A text in the page's color; anchor is start, middle or end."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="text">'
        f"{html.escape(text)}</text>"
    )
