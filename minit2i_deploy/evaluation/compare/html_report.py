"""The comparison as an HTML page in a single file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.evaluation.compare.chart import log_chart
from minit2i_deploy.evaluation.compare.comparison_result import Comparison, PairStates
from minit2i_deploy.evaluation.compare.difference_images import (
    GAIN,
    amplified_difference,
    png_bytes,
)
from minit2i_deploy.evaluation.compare.summary import (
    denoiser_label,
    figure_cells,
    size_cells,
    speed_cells,
)
from minit2i_deploy.io.html import document, escape, image, shorten, table, verdict
from minit2i_deploy.machine import describe_machine, machine_line

_STYLE: Final = """\
.trio { margin: 0 0 1.6rem; } .trio div { display: flex; gap: .6rem; max-width: 40rem; }
.trio img { width: calc((100% - 1.2rem) / 3); max-width: 192px; image-rendering: pixelated;
            border: 1px solid var(--line); }
figcaption { font-size: .9rem; line-height: 1.35; max-width: 40rem; }
"""
_MAX_REASON_CHARS: Final = 120
_NUMBERS: Final = (1, 2, 3)
_SIDE_HEAD: Final = ("", "bundle", "digest", "denoiser", "engine")
_LINES: Final = {
    "estimate": "estimate of the clean image, from the same state",
    "step": "state after the row, from the same state",
    "drift": "state after the row, each on its own trajectory",
}


def to_html(comparison: Comparison) -> str:
    """The page: figures, errors row by row, sizes, times and the images."""
    a, b = comparison.sides
    parts = [
        table(_SIDE_HEAD, [_side("A", a), _side("B", b)], numbers=()),
        f"<p>{escape(_what(comparison))}<br>{escape(machine_line(describe_machine()))}</p>",
        "<h2>Figures</h2>",
        table(("figure", "A", "B", "B to A"), figure_cells(comparison), numbers=_NUMBERS),
        "<h2>Errors row by row</h2>",
        "<p>Relative errors by Euclidean norm, averaged over "
        f"{len(comparison.row_errors.tokens)} images; t goes from 0 (noise) to 1 (data).</p>",
        log_chart(_lines(comparison), label="t"),
        "<h2>Sizes</h2>",
        table(("part", "A", "B", "B over A"), size_cells(comparison), numbers=_NUMBERS),
        *_speed(comparison),
        "<h2>Images</h2>",
        f"<p>A, B, and {GAIN:g} times their difference around mid grey: brighter where B is "
        "brighter.</p>",
        *(_trio(comparison, one) for one in comparison.states),
    ]
    return document("MiniT2I comparison", _STYLE, parts)


def _side(name: str, side: Mapping[str, Any]) -> tuple[str, ...]:
    return name, side["path"], side["digest"][:12], denoiser_label(side), side["engine"]


def _what(comparison: Comparison) -> str:
    return (
        f"{len(comparison.pairs)} images from the same prompts and noise, table "
        f"{comparison.table}, guidance {comparison.guidance:g}."
    )


def _lines(comparison: Comparison) -> dict[str, list[tuple[float, float]]]:
    rows = comparison.rows()
    return {
        label: [(row["t"], row[kind]["mean"]) for row in rows] for kind, label in _LINES.items()
    }


def _speed(comparison: Comparison) -> list[str]:
    if comparison.speed is None:
        return []
    head = ("stage", "A, median ms", "B, median ms", "A over B")
    return ["<h2>Speed</h2>", table(head, speed_cells(comparison.speed), numbers=_NUMBERS)]


def _trio(comparison: Comparison, states: PairStates) -> str:
    pair = comparison.pairs[states.index]
    difference = amplified_difference(states.x_a, states.x_b)
    images = "".join(
        image(png_bytes(x), f"{pair.case.prompt}, {what}")
        for x, what in ((states.x_a, "A"), (states.x_b, "B"), (difference, "difference"))
    )
    verdicts = ""
    if pair.verdicts is not None:
        verdicts = "<br>" + "; ".join(
            _verdict(name, item.correct, item.reason)
            for name, item in zip("AB", pair.verdicts, strict=True)
        )
    return (
        f'<figure class="trio"><div>{images}</div><figcaption>{escape(pair.case.prompt)}'
        f'<br><span class="small">seed {pair.case.seed}; PSNR {pair.psnr_db:.1f} dB, SSIM '
        f"{pair.ssim:.4f}, {pair.bytes_off:.1%} of bytes differ, by {pair.levels_off} at most"
        f"</span>{verdicts}</figcaption></figure>"
    )


def _verdict(name: str, correct: bool, reason: str) -> str:
    short = escape(shorten(reason, _MAX_REASON_CHARS))
    return f'{name} {verdict(correct)} <span class="small">{short}</span>'
