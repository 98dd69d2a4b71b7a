"""Time several subjects in turns, so that other load on the machine affects all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.bench.estimates import (
    EstimateError,
    estimate_error,
    reference_states,
)
from minit2i_deploy.evaluation.bench.stages import STAGES, Subject
from minit2i_deploy.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds of one stage of one subject, in the order of the calls."""

    seconds: tuple[float, ...]

    @property
    def p50(self) -> float:
        """Median."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """95th percentile, by linear interpolation."""
        return float(np.percentile(self.seconds, 95))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SubjectTimings:
    """The measurements of one subject.

    Args:
        label: of the subject.
        timings: stage to seconds.
        images_per_s: from the medians of the stages and the rows of the table.
        texts_per_s: from the median of embed.
        step_flops: arithmetic of one step.
        matrix_rate: FLOP a second of large matrix products on the same engine.
        difference: error of the estimate of the clean image to the first subject's, by Euclidean
            norm, the worst of several noise levels; 0 for the first, NaN where images differ in
            size.
        difference_db: the same as a PSNR, the worst; infinity where the two are equal.
    """

    label: str
    timings: Mapping[str, Timing]
    images_per_s: float
    texts_per_s: float
    step_flops: int
    matrix_rate: float
    difference: float
    difference_db: float

    @property
    def step_share(self) -> float:
        """The step's FLOP a second over the matrix rate."""
        return self.step_flops / self.timings["step"].p50 / self.matrix_rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: p50, p95 and the seconds of each repeat."""
        stages = {
            stage: {"p50_s": timing.p50, "p95_s": timing.p95, "seconds": list(timing.seconds)}
            for stage, timing in self.timings.items()
        }
        return {
            "label": self.label,
            "stages": stages,
            "images_per_s": self.images_per_s,
            "texts_per_s": self.texts_per_s,
            "step_flops": self.step_flops,
            "matrix_rate_flops": self.matrix_rate,
            "step_share_of_matrix_rate": self.step_share,
            "difference": self.difference if math.isfinite(self.difference) else None,
            "difference_db": self.difference_db if math.isfinite(self.difference_db) else None,
        }


def time_subjects(
    subjects: Sequence[Subject],
    *,
    repeats: int = 10,
    warm_up: int = 2,
    progress: Progress = no_progress,
) -> list[SubjectTimings]:
    """Time every stage of every subject, alternating between subjects (A B A B).

    Args:
        subjects: at least one; the others are compared with the first.
        repeats: timed calls of each stage.
        warm_up: calls before them that are not timed.
        progress: called with the share done and the stage.

    Raises:
        UsageError: repeats below 1 or a negative warm-up.
        RuntimeFailure: an engine failed.
    """
    if repeats < 1 or warm_up < 0:
        raise UsageError(
            f"expected repeats of at least 1 and warm-up of at least 0, got {repeats} and {warm_up}"
        )
    seconds: dict[tuple[int, str], list[float]] = {}
    rounds = len(STAGES) * (warm_up + repeats)
    done = 0
    for stage in STAGES:
        for turn in range(warm_up + repeats):
            for index, subject in enumerate(subjects):
                began = time.perf_counter()
                subject.stages[stage]()
                spent = time.perf_counter() - began
                if turn >= warm_up:
                    seconds.setdefault((index, stage), []).append(spent)
            done += 1
            progress(done / rounds, stage)
    errors = _estimate_errors(subjects)
    return [
        _measurements(subject, errors[i], {s: Timing(seconds=tuple(seconds[i, s])) for s in STAGES})
        for i, subject in enumerate(subjects)
    ]


def ratio_quartiles(
    first: SubjectTimings, other: SubjectTimings, stage: str
) -> tuple[float, float, float]:
    """25%, 50% and 75% of the paired ratios of a stage: ``other`` is so many times faster."""
    pairs = zip(first.timings[stage].seconds, other.timings[stage].seconds, strict=True)
    low, middle, high = np.percentile([a / b for a, b in pairs], (25, 50, 75)).tolist()
    return low, middle, high


def speed_ratios(first: SubjectTimings, other: SubjectTimings) -> dict[str, float]:
    """Stage to the median of the paired ratios: ``other`` is that many times faster."""
    # Not the ratio of medians: load that lasts for a turn slows both sides of a pair.
    return {
        stage: statistics.median(
            a / b for a, b in zip(timing.seconds, other.timings[stage].seconds, strict=True)
        )
        for stage, timing in first.timings.items()
    }


def _estimate_errors(subjects: Sequence[Subject]) -> list[EstimateError]:
    """Error of each subject's estimate, from the states of the first."""
    first = subjects[0]
    errors = [EstimateError(relative=0.0, psnr_db=math.inf)]
    if len(subjects) == 1:
        return errors
    states = reference_states(first.estimate, first.noise)
    references = [first.estimate(x, t) for t, x in states]
    for subject in subjects[1:]:
        # Another image size has no estimate to compare with, but may be timed.
        if subject.noise.shape == first.noise.shape:
            errors.append(estimate_error(subject.estimate, states, references))
        else:
            errors.append(EstimateError(relative=math.nan, psnr_db=math.nan))
    return errors


def _measurements(
    subject: Subject, error: EstimateError, timings: Mapping[str, Timing]
) -> SubjectTimings:
    once = sum(timings[stage].p50 for stage in ("tokenise", "encode", "adapt", "image"))
    total = once + subject.steps_per_image * timings["step"].p50
    return SubjectTimings(
        label=subject.label,
        timings=timings,
        images_per_s=1.0 / total,
        texts_per_s=subject.num_texts / timings["embed"].p50,
        step_flops=subject.flops["step"],
        matrix_rate=subject.matrix_rate,
        difference=error.relative,
        difference_db=error.psnr_db,
    )
