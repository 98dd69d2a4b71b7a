"""The comparison as one page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

from minit2i_deploy.compare.chart import log_chart
from minit2i_deploy.compare.pictures import GAIN, amplified_difference, png_bytes
from minit2i_deploy.compare.report import Comparison, Shown
from minit2i_deploy.compare.summary import denoiser_words, figures, sizes, speeds
from minit2i_deploy.demo.machine import describe_machine, machine_line

_STYLE: Final = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
.trio { margin: 0 0 1.6rem; } .trio div { display: flex; gap: .6rem; }
.trio img { width: 192px; height: 192px; image-rendering: pixelated; border: 1px solid #bbb; }
figcaption { font-size: .9rem; line-height: 1.35; max-width: 40rem; }
.yes { color: #0a6b2d; } .no { color: #a11212; } .small { color: #666; font-size: .85rem; }
code { overflow-wrap: anywhere; } svg { max-width: 100%; height: auto; }
"""
_LONGEST_REASON: Final = 120
_SIDE_HEAD: Final = ("", "bundle", "digest", "denoiser", "engine")
_LINES: Final = {
    "estimate": "estimate of the clean image, same state",
    "step": "state after the row, same state before",
    "drift": "state after the row, each its own way",
}


def to_html(comparison: Comparison) -> str:
    """Write the page: figures, errors row by row, sizes, times and the pictures themselves."""
    a, b = comparison.sides
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>MiniT2I comparison</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>MiniT2I comparison</h1>",
        _table(_SIDE_HEAD, [_side("A", a), _side("B", b)], style=""),
        f"<p>{_e(_what(comparison))}<br>{_e(machine_line(describe_machine()))}</p>",
        "<h2>Figures</h2>",
        _table(("figure", "A", "B", "B to A"), figures(comparison)),
        "<h2>Errors row by row</h2>",
        "<p>Relative, by Euclidean norm, the mean over "
        f"{len(comparison.details.tokens)} pictures; t goes from 0 noise to 1 data.</p>",
        log_chart(_lines(comparison), along="t"),
        "<h2>Sizes</h2>",
        _table(("part", "A", "B", "B over A"), sizes(comparison)),
        *_speed(comparison),
        "<h2>Pictures</h2>",
        f"<p>A, B, and {GAIN:g} times their difference around mid grey, brighter where B is.</p>",
        *(_trio(comparison, one) for one in comparison.shown),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], style: str = "n") -> str:
    """A table of words; all but the first column have the style, numbers unless said otherwise."""
    lines = ["<table><tr>" + "".join(f"<th>{_e(word)}</th>" for word in head) + "</tr>"]
    for first, *rest in rows:
        cells = "".join(f'<td class="{style}">{_e(word)}</td>' for word in rest)
        lines.append(f"<tr><td>{_e(first)}</td>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _side(name: str, side: Mapping[str, Any]) -> tuple[str, ...]:
    return name, side["path"], side["digest"][:12], denoiser_words(side), side["engine"]


def _what(comparison: Comparison) -> str:
    return (
        f"{len(comparison.pairs)} pictures from the same prompts and noise, table "
        f"{comparison.table}, guidance {comparison.guidance:g}."
    )


def _lines(comparison: Comparison) -> dict[str, list[tuple[float, float]]]:
    rows = comparison.rows()
    return {
        words: [(row["t"], row[kind]["mean"]) for row in rows] for kind, words in _LINES.items()
    }


def _speed(comparison: Comparison) -> list[str]:
    if comparison.speed is None:
        return []
    head = ("stage", "A, median ms", "B, median ms", "B is faster, times")
    return ["<h2>Speed</h2>", _table(head, speeds(comparison.speed))]


def _trio(comparison: Comparison, shown: Shown) -> str:
    pair = comparison.pairs[shown.index]
    difference = amplified_difference(shown.x_a, shown.x_b)
    images = "".join(
        _image(png_bytes(x), f"{pair.task.prompt}, {what}")
        for x, what in ((shown.x_a, "A"), (shown.x_b, "B"), (difference, "difference"))
    )
    verdicts = ""
    if pair.verdicts is not None:
        verdicts = "<br>" + "; ".join(
            _verdict(name, verdict.correct, verdict.reason)
            for name, verdict in zip("AB", pair.verdicts, strict=True)
        )
    return (
        f'<figure class="trio"><div>{images}</div><figcaption>{_e(pair.task.prompt)}'
        f'<br><span class="small">seed {pair.task.seed}; PSNR {pair.psnr_db:.1f} dB, SSIM '
        f"{pair.ssim:.4f}, {pair.bytes_off:.1%} of bytes off, by {pair.levels_off} at most"
        f"</span>{verdicts}</figcaption></figure>"
    )


def _verdict(name: str, correct: bool, reason: str) -> str:
    word, style = ("right", "yes") if correct else ("wrong", "no")
    # A noisy picture has dozens of regions, each with its words; the JSON has them all.
    short = reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 3]}..."
    return f'{name} <b class="{style}">{word}</b> <span class="small">{_e(short)}</span>'


def _image(png: bytes, words: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{_e(words)}">'


def _e(text: str) -> str:
    return html.escape(text)
