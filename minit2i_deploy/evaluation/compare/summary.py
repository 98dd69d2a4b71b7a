"""The comparison's figures as cells of text tables, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minit2i_deploy.evaluation.compare.comparison_result import Comparison

Cells = tuple[str, str, str, str]


def figure_cells(comparison: Comparison) -> list[Cells]:
    """A line for each figure of the images: its name, A, B, and B to A."""
    final, rows = comparison.final(), comparison.rows()
    lines = [
        ("PSNR, dB: mean (lowest)", "", "", _pair(final["psnr_db"], "lowest", ".2f")),
        ("SSIM: mean (lowest)", "", "", _pair(final["ssim"], "lowest", ".4f")),
        ("GMSD: mean (largest)", "", "", _pair(final["gmsd"], "largest", ".4f")),
        (
            "share of bytes that differ: mean (largest)",
            "",
            "",
            _pair(final["bytes_off"], "largest", ".4f"),
        ),
        ("largest difference of a byte", "", "", str(final["levels_off"])),
        _seams(comparison),
        *_score(comparison),
    ]
    for kind, text in (
        ("estimate", "error of the estimate: mean (largest) of all rows"),
        ("step", "error of one row: mean (largest) of all rows"),
    ):
        mean = sum(row[kind]["mean"] for row in rows) / len(rows)
        largest = max(row[kind]["largest"] for row in rows)
        lines.append((text, "", "", f"{mean:.2e} ({largest:.2e})"))
    last = rows[-1]["drift"]
    text = f"{last['mean']:.2e} ({last['largest']:.2e})"
    return [*lines, ("error of the final state: mean (largest)", "", "", text)]


def denoiser_label(side: Mapping[str, Any]) -> str:
    """Precision of one bundle's denoiser, and of the step graph after a switch if it has one."""
    precision: str = side["precisions"]["transformer"]
    switch = side.get("late")
    if switch is None:
        return precision
    return f"{precision}, {switch['precision']} from t={switch['t']:g}"


def size_cells(comparison: Comparison) -> list[Cells]:
    """A line for each part: its name, bytes of A and of B, B over A."""
    first, second = (side["bytes"] for side in comparison.sides)
    return [
        (
            part,
            f"{first[part]:,}",
            f"{second[part]:,}",
            f"{second[part] / first[part]:.3f}" if first[part] else "-",
        )
        for part in first
        if part in second
    ]


def speed_cells(speed: Mapping[str, Any]) -> list[Cells]:
    """A line for each stage: its name, medians of A and B in milliseconds, A over B."""
    return [
        (
            stage,
            f"{1e3 * times['a_p50_s']:.3f}",
            f"{1e3 * times['b_p50_s']:.3f}",
            f"{times['ratio']:.2f}",
        )
        for stage, times in speed["stages"].items()
    ]


def _pair(values: Mapping[str, float | None], worst: str, form: str) -> str:
    # An infinite PSNR is None.
    texts = ["equal" if values[key] is None else f"{values[key]:{form}}" for key in ("mean", worst)]
    return f"{texts[0]} ({texts[1]})"


def _seams(comparison: Comparison) -> Cells:
    first, second = (ratios[2] for ratios in comparison.seams)
    what = "seams: gradient at patch borders over elsewhere"
    if first is None or second is None:
        return what, _number(first), _number(second), "-"
    return what, _number(first), _number(second), f"{second - first:+.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _score(comparison: Comparison) -> list[Cells]:
    score = comparison.score()
    if score is None:
        return []
    low, high = score["difference_interval_95"]
    paired = score["paired"]
    change = (
        f"{score['difference']:+.4f} (95%: {low:+.4f} to {high:+.4f}), won {paired['won']}, lost "
        f"{paired['lost']}, p {paired['p_value']:.3f}"
    )
    first, second = (score[side]["overall"] for side in "ab")
    lines = [("captions followed", _rate(first), _rate(second), change)]
    for kind, rate in score["a"]["kinds"].items():
        other = score["b"]["kinds"][kind]
        change = f"{other['accuracy'] - rate['accuracy']:+.4f}"
        lines.append((f"- {kind.replace('_', ' ')}", _rate(rate), _rate(other), change))
    return lines


def _rate(rate: Mapping[str, Any]) -> str:
    return f"{rate['correct']}/{rate['total']}"
