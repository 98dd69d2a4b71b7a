"""The report's curves as PNG files, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import UsageError, require
from minit2i_deploy.evaluation.quality.fine_reference import end_floor
from minit2i_deploy.evaluation.quality.meter_report import MeterReport, Outcome
from minit2i_deploy.io.files import atomic_write_bytes

_DPI: Final = 110
_UPRIGHT_LABELS: Final = 8
# From this ratio of an axis's ends on, 1, 2 and 5 times the powers of ten are enough ticks.
_WIDE: Final = 10.0
_FULL_INTERVAL: Final = [0.0, 1.0]
_MARKERS: Final = "osD^vPX*<>"


def write_plots(report: MeterReport, folder: Path) -> list[Path]:
    """Plot score and, if it was measured, distance over evaluations.

    Args:
        report: what to draw.
        folder: existing; files of these names are replaced.

    Returns:
        the files: score.png, and psnr.png if there are distances.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        Minit2iError: a file cannot be written.
    """
    paths = [folder / "score.png"]
    plot_score(report, paths[0])
    if any(one.distance is not None for one in report.outcomes):
        paths.append(folder / "psnr.png")
        plot_psnr(report, paths[1])
    return paths


def plot_score(report: MeterReport, path: Path) -> None:
    """Overall score with its 95% interval over evaluations, a line for each solver."""
    figure, (axes,) = _figure(1)
    for index, (solver, group) in enumerate(_by_solver(report.outcomes).items()):
        _errorbar(axes, [one.candidate.num_evaluations for one in group], group, index, solver)
    _over_evaluations(axes, "captions followed")
    _save(figure, path)


def plot_psnr(report: MeterReport, path: Path) -> None:
    """PSNR to the fine reference over evaluations, a line for each solver."""
    figure, (axes,) = _figure(1)
    for index, (solver, group) in enumerate(_by_solver(report.outcomes).items()):
        points = [
            (one.candidate.num_evaluations, one.distance.psnr_db)
            for one in group
            if one.distance is not None
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker=_MARKERS[index % len(_MARKERS)], label=solver
            )
    _over_evaluations(axes, f"PSNR to {report.settings.reference_steps} steps (dB)")
    _save(figure, path)


def plot_settings(
    outcomes: Sequence[Outcome], labels: Sequence[str], setting: str, path: Path
) -> None:
    """Score, values out of range and seams over a setting.

    Args:
        outcomes: at least one.
        labels: values of the setting, one for each outcome.
        setting: its name.
        path: PNG file, replaced if it exists.

    Raises:
        UsageError: no outcomes, or another number of labels.
        MissingDependencyError: matplotlib is not installed.
    """
    if len(labels) != len(outcomes) or not outcomes:
        raise UsageError(
            f"expected a label for each of {len(outcomes)} outcomes, got {len(labels)}"
        )
    figure, (score, outside, seams) = _figure(3)
    places = list(range(len(outcomes)))
    _errorbar(score, places, outcomes, 0, None)
    score.set_ylabel("captions followed")
    for index, (name, read) in enumerate(_SATURATION.items()):
        outside.plot(places, [read(one) for one in outcomes], _MARKERS[index] + "-", label=name)
    outside.set_ylabel("share of values")
    for index, name in enumerate(("horizontal", "vertical", "both")):
        # matplotlib leaves a gap at NaN, as it should for an undefined ratio.
        ratios = [one.seams[index] for one in outcomes]
        heights = [float("nan") if ratio is None else ratio for ratio in ratios]
        seams.plot(places, heights, _MARKERS[index] + "-", label=name)
    seams.set_ylabel("seam ratio")
    for axes in (outside, seams):
        axes.legend()
    for axes in (score, outside, seams):
        axes.set_xlabel(setting)
        axes.set_xticks(places, labels, rotation=60 if len(labels) > _UPRIGHT_LABELS else 0)
    _save(figure, path)


_SATURATION: Final[dict[str, Callable[[Outcome], float]]] = {
    "outside [-1, 1]": lambda one: one.outside,
    "clipped bytes": lambda one: one.clipped,
}


def _by_solver(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes that differ only in steps, by rising evaluations, under a label of the rest."""
    several = len({one.candidate.guidance for one in outcomes}) > 1
    groups: dict[str, list[Outcome]] = {}
    for one in sorted(outcomes, key=lambda one: one.candidate.num_evaluations):
        meta = one.candidate.table.meta
        parts = [str(meta.get("solver", one.candidate.table.name))]
        parts += [f"{key} {meta[key]}" for key in ("shift", "clip", "rescale") if meta.get(key)]
        if meta.get("interval", _FULL_INTERVAL) != _FULL_INTERVAL:
            parts.append(f"interval {meta['interval']}")
        # Tables with another end converge to another solution, so they get a line of their own.
        floor = end_floor(one.candidate.table)
        parts += [f"floor {floor:g}"] * bool(floor)
        parts += [f"guidance {one.candidate.guidance:g}"] * several
        groups.setdefault(", ".join(parts), []).append(one)
    return groups


def _errorbar(
    axes: Any, places: Sequence[float], group: Sequence[Outcome], index: int, label: str | None
) -> None:
    scores = [one.accuracy for one in group]
    intervals = [one.score.overall.interval for one in group]
    # At an accuracy of 0 or 1, rounding may put an end of the interval on the wrong side of it.
    low = [max(0.0, score - ends[0]) for score, ends in zip(scores, intervals, strict=True)]
    high = [max(0.0, ends[1] - score) for score, ends in zip(scores, intervals, strict=True)]
    marker = _MARKERS[index % len(_MARKERS)]
    axes.errorbar(places, scores, yerr=[low, high], marker=marker, capsize=3, label=label)


def _figure(num_panels: int) -> tuple[Any, Sequence[Any]]:
    # Unlike pyplot this needs no window system and holds no figure after its use.
    figure_module = require("matplotlib.figure", "eval")
    figure = figure_module.Figure(figsize=(6.4 + 4.2 * (num_panels - 1), 4.2), layout="constrained")
    panels = figure.subplots(1, num_panels, squeeze=False)[0].tolist()
    for axes in panels:
        axes.grid(visible=True, alpha=0.3)
    return figure, panels


def _over_evaluations(axes: Any, quantity: str) -> None:
    ticker = require("matplotlib.ticker", "eval")
    axes.set_xscale("log")
    # Integers such as 20, not 2 x 10^1, and only as many as do not overlap.
    low, high = axes.get_xlim()
    wide = high >= _WIDE * low
    places = ticker.LogLocator(subs=(1, 2, 5)) if wide else ticker.MaxNLocator(5, integer=True)
    axes.xaxis.set_major_locator(places)
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes.set_xlabel("evaluations of the denoiser per image")
    axes.set_ylabel(quantity)
    axes.legend()


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    # With the library's version in the metadata equal curves would give different files.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())
