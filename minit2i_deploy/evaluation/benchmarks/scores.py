"""Scores of the images of a benchmark, and two bundles compared image by image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.compare.confidence_interval import difference_interval
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes.score import Z_95

_MAX_NAMED: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a scorer says of each image, or of each grid.

    Args:
        values: key of an image -> its score, 0 to 1.
        groups: key of an image -> the task, track or kind that it belongs to.
        by_group: whether the score of all is the mean of the groups' scores, as GenEval's is.
    """

    values: Mapping[str, float]
    groups: Mapping[str, str]
    by_group: bool

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("no score in the results; run the scorer on the images")

    @property
    def is_binary(self) -> bool:
        """Whether every image is right or wrong."""
        return all(value in (0.0, 1.0) for value in self.values.values())

    def group_scores(self) -> dict[str, float]:
        """Mean of each group, in the order of their names."""
        values: dict[str, list[float]] = {}
        for key, value in self.values.items():
            values.setdefault(self.groups[key], []).append(value)
        return {name: fmean(values[name]) for name in sorted(values)}

    @property
    def overall(self) -> float:
        """The benchmark's score, 0 to 1."""
        return fmean((self.group_scores() if self.by_group else self.values).values())

    def require_keys(self, keys: set[str], where: str) -> None:
        """Refuse results that are of more or fewer images than there are.

        Args:
            keys: of the images.
            where: the results, for the error.

        Raises:
            UsageError: the keys differ; the first ones are named.
        """
        missing, unknown = sorted(keys - set(self.values)), sorted(set(self.values) - keys)
        if missing or unknown:
            first = (missing or unknown)[:_MAX_NAMED]
            what = "lacks" if missing else "has unknown"
            raise UsageError(
                f"{where}: {what} {len(missing or unknown)} of {len(keys)} images, such as "
                f"{', '.join(first)}; score the images again"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedScores:
    """Scores of the same prompts and seeds by two bundles.

    Args:
        won, lost: images that are scored higher and lower than the baseline's.
        total: images.
        difference: of the mean of all images, -1 to 1; below 0 the baseline is better.
        interval: its 95% confidence interval.
        p_value: of the exact McNemar test; None where scores are not right or wrong.
    """

    won: int
    lost: int
    total: int
    difference: float
    interval: tuple[float, float]
    p_value: float | None

    @classmethod
    def of(cls, scores: Scores, baseline: Scores) -> PairedScores:
        """Compare image by image.

        Raises:
            UsageError: the scores are of different images.
        """
        scores.require_keys(set(baseline.values), "results of the second bundle")
        differences = [scores.values[key] - value for key, value in baseline.values.items()]
        won, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
        mean, total = fmean(differences), len(differences)
        p_value = None
        if scores.is_binary and baseline.is_binary:
            paired = PairedVerdicts(won=won, lost=lost)
            interval, p_value = difference_interval(paired, total), paired.p_value
        else:
            interval = _normal_interval(differences, mean)
        return cls(
            won=won, lost=lost, total=total, difference=mean, interval=interval, p_value=p_value
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "won": self.won,
            "lost": self.lost,
            "images": self.total,
            "difference": self.difference,
            "interval_95": list(self.interval),
            "p_value": self.p_value,
        }


def _normal_interval(differences: list[float], mean: float) -> tuple[float, float]:
    """Of the mean of paired differences, by the central limit theorem."""
    if len(differences) < 2:
        return -1.0, 1.0
    half = Z_95 * stdev(differences) / math.sqrt(len(differences))
    return max(-1.0, mean - half), min(1.0, mean + half)
