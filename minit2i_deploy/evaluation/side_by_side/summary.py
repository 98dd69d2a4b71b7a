"""The figures of several bundles as cells of text tables, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.evaluation.compare.comparison_result import final_figures
from minit2i_deploy.evaluation.compare.summary import denoiser_label
from minit2i_deploy.evaluation.side_by_side.result import Candidate, SideBySide
from minit2i_deploy.evaluation.side_by_side.settings import UNQUANTIZED

HEAD: Final = ("bundle", "scheme", "MB", "PSNR dB", "lowest")
SCORE_HEAD: Final = ("captions followed", "95% interval", "difference", "95% of it")
SPEED_HEAD: Final = ("step ms", "times as fast", "quartiles")


def figure_head(result: SideBySide) -> tuple[str, ...]:
    """Titles of the columns that ``figure_cells`` fills."""
    score = SCORE_HEAD if result.score(result.reference) is not None else ()
    speed = SPEED_HEAD if result.reference.speed is not None else ()
    return (*HEAD, *score, *speed)


def figure_cells(result: SideBySide) -> list[tuple[str, ...]]:
    """A line for each bundle, the reference first."""
    return [
        (
            one.name,
            _scheme(one),
            f"{one.num_bytes / 1e6:.1f}",
            *_psnr(one),
            *score_cells(result.score(one)),
            *_speed(one),
        )
        for one in result.bundles
    ]


def score_cells(score: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Share, its interval, difference to the reference, its interval; none without a score."""
    if score is None:
        return ()
    overall = score["overall"]
    low, high = overall["interval_95"]
    cells = (f"{overall['accuracy']:.3f}", f"{low:.3f} to {high:.3f}")
    if "difference" not in score:
        return (*cells, "-", "-")
    low, high = score["difference_interval_95"]
    return (*cells, f"{score['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}")


def psnr_text(value: float | None, digits: int = 2) -> str:
    """Decibels, or that the images are equal."""
    return "equal" if value is None else f"{value:.{digits}f}"


def _scheme(one: Candidate) -> str:
    scheme = one.settings["scheme"]
    return denoiser_label(one.side) if scheme == UNQUANTIZED else scheme


def _psnr(one: Candidate) -> tuple[str, str]:
    if not one.pairs:
        return "-", "-"
    final = final_figures(one.pairs)["psnr_db"]
    return psnr_text(final["mean"]), psnr_text(final["lowest"])


def _speed(one: Candidate) -> tuple[str, ...]:
    if one.speed is None:
        return ()
    low, high = one.speed.quartiles
    return f"{1e3 * one.speed.step_s:.2f}", f"{one.speed.ratio:.2f}", f"{low:.2f} to {high:.2f}"
