"""Several bundles side by side as an HTML page in a single file."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from minit2i_deploy.evaluation.compare.comparison_result import ImagePair, final_figures
from minit2i_deploy.evaluation.compare.difference_images import (
    GAIN,
    amplified_difference,
    png_bytes,
)
from minit2i_deploy.evaluation.side_by_side import bars
from minit2i_deploy.evaluation.side_by_side.bars import Bar, bar_chart
from minit2i_deploy.evaluation.side_by_side.plots import (
    Point,
    bin_counts,
    bin_edges,
    histogram,
    scatter,
)
from minit2i_deploy.evaluation.side_by_side.result import Candidate, ShownCase, SideBySide
from minit2i_deploy.evaluation.side_by_side.settings import split_settings
from minit2i_deploy.evaluation.side_by_side.summary import figure_cells, figure_head, psnr_text
from minit2i_deploy.io.html import document, escape, image, table, verdict
from minit2i_deploy.machine import machine_line

_STYLE: Final = (
    bars.STYLE
    + """\
body { max-width: 76rem; }
.shown { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .7rem;
         margin: .4rem 0 2rem; }
.shown figure { margin: 0; }
.shown img { display: block; width: 100%; image-rendering: pixelated;
             border: 1px solid var(--line); }
.shown img + img { margin-top: .2rem; }
.shown figcaption { font-size: .82rem; line-height: 1.3; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1rem 0 0; }
.charts p { margin: 0 0 .4rem; }
"""
)
_NUM_TEXT_COLUMNS: Final = 2


def to_html(result: SideBySide) -> str:
    """The page: figures, bars, scatters, histograms, settings and the worst images."""
    head = figure_head(result)
    parts = [
        f"<p>{escape(_what(result))}<br>{escape(machine_line(result.machine))}</p>",
        "<h2>Figures</h2>",
        table(head, figure_cells(result), numbers=range(_NUM_TEXT_COLUMNS, len(head))),
        f'<div class="charts">{"".join(_bars(result))}</div>',
        "<h2>What it costs and what it keeps</h2>",
        f'<div class="charts">{"".join(_scatters(result))}</div>',
        "<h2>Errors image by image</h2>",
        "<p>Number of images by their PSNR to the reference: one image may turn out otherwise "
        "and lie far to the left while all others are close.</p>",
        f'<div class="charts">{"".join(_histograms(result))}</div>',
        *_settings(result),
        "<h2>Worst images first</h2>",
        f"<p>Prompts in the order of the lowest PSNR of any bundle. Under each image is {GAIN:g} "
        "times its difference to the reference, around mid grey.</p>",
        *(_case(result, case) for case in result.shown),
    ]
    return document("MiniT2I bundles side by side", _STYLE, parts)


def _what(result: SideBySide) -> str:
    return (
        f"{len(result.cases)} images from the same prompts and noise, table {result.table}, "
        f"guidance {result.guidance:g}. The reference is {result.reference.name}."
    )


def _bars(result: SideBySide) -> list[str]:
    sections = [
        bar_chart("Size", "Megabytes of the complete bundle.", _bar_of_each(result, _size_bar)),
        bar_chart(
            "PSNR to the reference",
            "Decibels, mean of all images; the line goes from the lowest to the highest.",
            [_psnr_bar(one) for one in result.candidates],
        ),
    ]
    if result.score(result.reference) is not None:
        note = "Share of the captions that the images follow, with its 95% interval."
        score = _bar_of_each(result, lambda one: _score_bar(result, one))
        sections.append(bar_chart("Captions followed", note, score, top=1.0))
    if result.reference.speed is not None:
        note = (
            "Times as fast as the reference, median of pairs in turns; the line is the middle half."
        )
        sections.append(bar_chart("Speed of a step", note, _bar_of_each(result, _speed_bar)))
    return sections


def _bar_of_each(result: SideBySide, bar_of: Callable[[Candidate], Bar]) -> list[Bar]:
    reference = bar_of(result.reference)
    grey = Bar(
        name=reference.name,
        value=reference.value,
        text=reference.text,
        interval=reference.interval,
        is_reference=True,
    )
    return [grey, *(bar_of(one) for one in result.candidates)]


def _size_bar(one: Candidate) -> Bar:
    return Bar(name=one.name, value=one.num_bytes / 1e6, text=f"{one.num_bytes / 1e6:.1f}")


def _psnr_bar(one: Candidate) -> Bar:
    values = [pair.psnr_db for pair in one.pairs]
    mean = math.inf if one.psnr_db is None else one.psnr_db
    text = psnr_text(one.psnr_db, 1)
    return Bar(name=one.name, value=mean, text=text, interval=(min(values), max(values)))


def _score_bar(result: SideBySide, one: Candidate) -> Bar:
    score = result.score(one)
    assert score is not None
    overall = score["overall"]
    return Bar(
        name=one.name,
        value=overall["accuracy"],
        text=f"{overall['accuracy']:.3f}",
        interval=tuple(overall["interval_95"]),
    )


def _speed_bar(one: Candidate) -> Bar:
    assert one.speed is not None
    ratio = one.speed.ratio
    return Bar(name=one.name, value=ratio, text=f"{ratio:.2f}", interval=one.speed.quartiles)


def _scatters(result: SideBySide) -> list[str]:
    """PSNR over size and speed, and the score over size; bundles equal to the reference lack."""
    measured = [(one, one.psnr_db) for one in result.candidates if one.psnr_db is not None]
    reference = result.reference
    drawn = []
    if measured:
        points = [Point(name=one.name, x=one.num_bytes / 1e6, y=psnr) for one, psnr in measured]
        line = (reference.name, reference.num_bytes / 1e6)
        drawn.append(scatter(points, x_label="size, MB", y_label="PSNR, dB", line=line))
    if measured and reference.speed is not None:
        points = [
            Point(name=one.name, x=one.speed.ratio, y=psnr)
            for one, psnr in measured
            if one.speed is not None
        ]
        label = "times as fast as the reference"
        line = (reference.name, 1.0)
        drawn.append(scatter(points, x_label=label, y_label="PSNR, dB", line=line))
    if result.score(reference) is not None:
        points = [
            Point(name=bar.name, x=one.num_bytes / 1e6, y=bar.value, interval=bar.interval)
            for one in result.bundles
            for bar in (_score_bar(result, one),)
        ]
        drawn.append(scatter(points, x_label="size, MB", y_label="captions followed"))
    return drawn


def _histograms(result: SideBySide) -> list[str]:
    values = {one.name: [pair.psnr_db for pair in one.pairs] for one in result.candidates}
    bins = bin_edges([value for each in values.values() for value in each])
    top = max(max(bin_counts(each, bins)) for each in values.values())
    return [
        f"<section><h3>{escape(one.name)}</h3>"
        f'<p class="small">{escape(_spread(one))}</p>'
        f"{histogram(values[one.name], bins, label='PSNR, dB', top=top)}</section>"
        for one in result.candidates
    ]


def _spread(one: Candidate) -> str:
    final = final_figures(one.pairs)["psnr_db"]
    equal = sum(math.isinf(pair.psnr_db) for pair in one.pairs)
    text = f"mean {psnr_text(final['mean'], 1)}, lowest {psnr_text(final['lowest'], 1)}"
    return f"{text}; {equal} equal, in the last column" if equal else text


def _settings(result: SideBySide) -> list[str]:
    names = [one.name for one in result.bundles]
    equal, different = split_settings([one.settings for one in result.bundles])
    lines = [(name, *texts) for name, texts in different.items()]
    return [
        "<h2>Settings</h2>",
        table(("setting", *names), lines, numbers=()),
        "<details><summary>The same in all bundles</summary>",
        table(("setting", "value"), list(equal.items()), numbers=()),
        "</details>",
    ]


def _case(result: SideBySide, case: ShownCase) -> str:
    source = result.cases[case.index]
    pairs = [one.pairs[case.index] for one in result.candidates]
    first = pairs[0].verdicts
    figures = [_figure(result.reference.name, png_bytes(case.x[0]), "", first and first[0].correct)]
    for one, pair, x in zip(result.candidates, pairs, case.x[1:], strict=True):
        difference = image(png_bytes(amplified_difference(case.x[0], x)), f"{one.name}, difference")
        figures.append(_figure(one.name, png_bytes(x), difference, _correct(pair), pair.psnr_db))
    return (
        f'<h3>{escape(source.prompt)} <span class="small">seed {source.seed}</span></h3>'
        f'<div class="shown">{"".join(figures)}</div>'
    )


def _figure(
    name: str, png: bytes, difference: str, correct: bool | None, psnr_db: float | None = None
) -> str:
    parts = [escape(name)]
    if psnr_db is not None:
        parts.append(f"{psnr_db:.1f} dB" if math.isfinite(psnr_db) else "equal")
    if correct is not None:
        parts.append(verdict(correct))
    caption = ", ".join(parts)
    return f"<figure>{image(png, name)}{difference}<figcaption>{caption}</figcaption></figure>\n"


def _correct(pair: ImagePair) -> bool | None:
    return None if pair.verdicts is None else pair.verdicts[1].correct
