"""The editing report's curves as a PNG file, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import require
from minit2i_deploy.evaluation.editing.editing_report import EditingOutcome, EditingReport
from minit2i_deploy.evaluation.shapes.score import Rate
from minit2i_deploy.io.files import atomic_write_bytes

_DPI: Final = 110
_MARKERS: Final = "osD^vPX*<>"


def plot_editing(report: EditingReport, path: Path) -> None:
    """Captions followed over evaluations, and for image-to-image over strength.

    Args:
        report: what to draw; a panel without outcomes is left out.
        path: PNG file, replaced if it exists.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        Minit2iError: the file cannot be written.
    """
    masked = [one for one in report.outcomes if one.strength is None]
    free = [one for one in report.outcomes if one.strength is not None]
    figure, panels = _figure(bool(masked) + bool(free))
    if masked:
        _plot_masked(panels[0], masked)
    if free:
        _plot_strengths(panels[-1], free)
    for axes in panels:
        axes.set_ylim(0.0, 1.02)
        axes.set_ylabel("share of images")
        axes.legend()
    buffer = io.BytesIO()
    # With the library's version in the metadata equal curves would give different files.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    atomic_write_bytes(path, buffer.getvalue())


def _figure(num_panels: int) -> tuple[Any, Sequence[Any]]:
    # Unlike pyplot this needs no window system and holds no figure after its use.
    figure_module = require("matplotlib.figure", "eval")
    figure = figure_module.Figure(figsize=(5.6 * num_panels, 4.2), layout="constrained")
    panels = figure.subplots(1, num_panels, squeeze=False)[0].tolist()
    for axes in panels:
        axes.grid(visible=True, alpha=0.3)
    return figure, panels


def _plot_masked(axes: Any, outcomes: Sequence[EditingOutcome]) -> None:
    """A series for each task, with and without repeats."""
    for index, (name, group) in enumerate(_grouped(outcomes, _masked_label).items()):
        ordered = sorted(group, key=lambda one: one.num_evaluations)
        places = [one.num_evaluations for one in ordered]
        _errorbar(axes, places, [_rate(one.followed) for one in ordered], index, name)
    axes.set_xlabel("evaluations of the denoiser per image")


def _plot_strengths(axes: Any, outcomes: Sequence[EditingOutcome]) -> None:
    """Captions followed and objects in place, for each table."""
    groups = _grouped(outcomes, lambda one: one.candidate.name)
    for index, (name, group) in enumerate(groups.items()):
        ordered = sorted(group, key=lambda one: one.strength or 0.0)
        places = [one.strength or 0.0 for one in ordered]
        for offset, (what, rates) in enumerate(
            (
                ("followed", [_rate(one.followed) for one in ordered]),
                ("in place", [_rate(one.in_place) for one in ordered]),
            )
        ):
            label = what if len(groups) == 1 else f"{what}, {name}"
            _errorbar(axes, places, rates, 2 * index + offset, label)
    axes.set_xlabel("strength of image-to-image")


def _masked_label(one: EditingOutcome) -> str:
    repeats = "repeats" if one.candidate.table.meta.get("repeats") else "no repeats"
    return f"{one.task}, {repeats}"


def _grouped(
    outcomes: Sequence[EditingOutcome], label: Callable[[EditingOutcome], str]
) -> dict[str, list[EditingOutcome]]:
    groups: dict[str, list[EditingOutcome]] = {}
    for one in outcomes:
        groups.setdefault(label(one), []).append(one)
    return groups


def _errorbar(
    axes: Any, places: Sequence[float], rates: Sequence[Rate], index: int, label: str
) -> None:
    # At 0 or 1, rounding may put an end of the interval on the wrong side of the share.
    low = [max(0.0, rate.accuracy - rate.interval[0]) for rate in rates]
    high = [max(0.0, rate.interval[1] - rate.accuracy) for rate in rates]
    marker = _MARKERS[index % len(_MARKERS)]
    heights = [rate.accuracy for rate in rates]
    axes.errorbar(places, heights, yerr=[low, high], marker=marker, capsize=3, label=label)


def _rate(verdicts: Sequence[bool]) -> Rate:
    return Rate(num_correct=sum(verdicts), num_total=len(verdicts))
