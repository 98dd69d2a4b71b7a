"""Confidence interval of the difference of two scores on the same captions."""

from __future__ import annotations

import math

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes.score import Z_95


def difference_interval(paired: PairedVerdicts, total: int) -> tuple[float, float]:
    """The 95% confidence interval of the difference of two accuracies on the same captions.

    Args:
        paired: captions whose verdict differs.
        total: captions judged.

    Returns:
        low, high: each -1 to 1; below 0 the baseline is better.

    Raises:
        UsageError: no captions, or fewer than the number that differ.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched
    proportions, Statistics in Medicine 24 (2005): Wald's interval after half a caption is added
    to each cell of the table of verdicts.
    """
    if total < 1 or paired.won + paired.lost > total:
        raise UsageError(
            "expected at least one caption and no more differences than captions, got"
            f" {paired.won + paired.lost} of {total}"
        )
    size, won, lost = total + 2, paired.won + 0.5, paired.lost + 0.5
    centre = (won - lost) / size
    spread = Z_95 * math.sqrt(won + lost - (won - lost) ** 2 / size) / size
    return max(-1.0, centre - spread), min(1.0, centre + spread)
