"""The comparison's figures as rows of words, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minit2i_deploy.evaluation.compare.comparison_result import Comparison

Row = tuple[str, str, str, str]


def figure_cells(comparison: Comparison) -> list[Row]:
    """What there is to know of the pictures: figure, A, B, and B to A."""
    final, rows = comparison.final(), comparison.rows()
    found = [
        ("PSNR, dB: mean (lowest)", "", "", _pair(final["psnr_db"], "lowest", ".2f")),
        ("SSIM: mean (lowest)", "", "", _pair(final["ssim"], "lowest", ".4f")),
        ("GMSD: mean (largest)", "", "", _pair(final["gmsd"], "largest", ".4f")),
        ("share of bytes off: mean (largest)", "", "", _pair(final["bytes_off"], "largest", ".4f")),
        ("largest difference of a byte", "", "", str(final["levels_off"])),
        _seams(comparison),
        *_score(comparison),
    ]
    for kind, words in (
        ("estimate", "error of the estimate: mean (largest) of all rows"),
        ("step", "error of one row: mean (largest) of all rows"),
    ):
        mean = sum(row[kind]["mean"] for row in rows) / len(rows)
        largest = max(row[kind]["largest"] for row in rows)
        found.append((words, "", "", f"{mean:.2e} ({largest:.2e})"))
    last = rows[-1]["drift"]
    words = f"{last['mean']:.2e} ({last['largest']:.2e})"
    return [*found, ("error of the final state: mean (largest)", "", "", words)]


def denoiser_label(side: Mapping[str, Any]) -> str:
    """Precision of one side's denoiser, and of its late rows where those differ."""
    words: str = side["precisions"]["transformer"]
    late = side.get("late")
    return words if late is None else f"{words}, {late['precision']} from t={late['t']:g}"


def size_cells(comparison: Comparison) -> list[Row]:
    """Bytes of each part: part, A, B, and B over A."""
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


def speed_cells(speed: Mapping[str, Any]) -> list[Row]:
    """Each stage: its name, medians of A and B in milliseconds, how many times B is faster."""
    return [
        (
            stage,
            f"{1e3 * found['a_p50_s']:.3f}",
            f"{1e3 * found['b_p50_s']:.3f}",
            f"{found['ratio']:.2f}",
        )
        for stage, found in speed["stages"].items()
    ]


def _pair(values: Mapping[str, float | None], worst: str, form: str) -> str:
    # No number stands for a PSNR without end.
    words = ["equal" if values[key] is None else f"{values[key]:{form}}" for key in ("mean", worst)]
    return f"{words[0]} ({words[1]})"


def _seams(comparison: Comparison) -> Row:
    first, second = (ratios[2] for ratios in comparison.seams)
    what = "seams: gradient at patch borders over elsewhere"
    if first is None or second is None:
        return what, _number(first), _number(second), "-"
    return what, _number(first), _number(second), f"{second - first:+.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _score(comparison: Comparison) -> list[Row]:
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
    rows = [("captions followed", _rate(first), _rate(second), change)]
    for kind, rate in score["a"]["kinds"].items():
        other = score["b"]["kinds"][kind]
        change = f"{other['accuracy'] - rate['accuracy']:+.4f}"
        rows.append((f"- {kind.replace('_', ' ')}", _rate(rate), _rate(other), change))
    return rows


def _rate(rate: Mapping[str, Any]) -> str:
    return f"{rate['correct']}/{rate['total']}"
