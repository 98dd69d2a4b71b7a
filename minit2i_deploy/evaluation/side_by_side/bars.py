"""Bars as HTML and CSS alone, which stay legible at any width of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minit2i_deploy.io.html import escape

STYLE = """\
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
          gap: .4rem 2.5rem; }
.bar { display: grid; grid-template-columns: minmax(5.5rem, 10rem) 1fr minmax(4.5rem, max-content);
       gap: .7rem; align-items: center; font-size: .9rem; margin: .3rem 0; }
.bar .name { overflow-wrap: anywhere; line-height: 1.2; }
.bar .value { text-align: right; font-variant-numeric: tabular-nums; }
.track { position: relative; height: 1rem; background: var(--box); border-radius: 2px; }
.fill { position: absolute; inset: 0 auto 0 0; background: var(--series-1); border-radius: 2px; }
.reference .fill { background: var(--soft); }
.range { position: absolute; top: .44rem; height: .12rem; min-width: 2px; background: var(--ink); }
.range::before, .range::after { content: ""; position: absolute; top: -.22rem; width: 2px;
       height: .56rem; background: var(--ink); }
.range::before { left: -1px; } .range::after { right: -1px; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar.

    Args:
        name: of the bundle.
        value: its length, at least 0; infinity fills the track.
        text: what stands at its end.
        interval: ends of a whisker in the value's unit, or None.
        is_reference: drawn in grey.
    """

    name: str
    value: float
    text: str
    interval: tuple[float, float] | None = None
    is_reference: bool = False


def bar_chart(title: str, note: str, bars: Sequence[Bar], *, top: float | None = None) -> str:
    """Horizontal bars from zero, one for each bundle.

    Args:
        title: of the chart.
        note: what bar and whisker are.
        bars: at least one.
        top: value of a complete track; None takes the largest value or end of a whisker.
    """
    ends = [end for bar in bars for end in (bar.value, *(bar.interval or ()))]
    # An infinite PSNR has no length; it fills the track of the largest finite one.
    largest = top or max((end for end in ends if math.isfinite(end)), default=0.0) or 1.0
    lines = "\n".join(_bar(bar, largest) for bar in bars)
    return (
        f'<section><h3>{escape(title)}</h3>\n<p class="small">{escape(note)}</p>\n{lines}</section>'
    )


def _bar(bar: Bar, top: float) -> str:
    whisker = ""
    if bar.interval is not None:
        low, high = (_percent(end, top) for end in bar.interval)
        whisker = f'<span class="range" style="left:{low:.2f}%;width:{high - low:.2f}%"></span>'
    style = "bar reference" if bar.is_reference else "bar"
    return (
        f'<div class="{style}"><span class="name">{escape(bar.name)}</span><span class="track">'
        f'<span class="fill" style="width:{_percent(bar.value, top):.2f}%"></span>{whisker}</span>'
        f'<span class="value">{escape(bar.text)}</span></div>'
    )


def _percent(value: float, top: float) -> float:
    return 100.0 * min(1.0, max(0.0, value / top))
