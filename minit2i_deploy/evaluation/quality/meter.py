"""The meter: every candidate generates the same captions from the same noise.

generate -> judge -> saturation and seams -> distance to a fine reference for some -> compare
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality import image_metrics
from minit2i_deploy.evaluation.quality.candidates import Candidate
from minit2i_deploy.evaluation.quality.fine_reference import fine_table
from minit2i_deploy.evaluation.quality.meter_report import Distance, MeterReport, Outcome
from minit2i_deploy.evaluation.quality.meter_settings import MeterSettings
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes import (
    KINDS,
    ShapesScore,
    Spec,
    Verdict,
    held_out_captions,
    judge,
)
from minit2i_deploy.generate import Result, generate
from minit2i_deploy.progress import Progress, by_count, no_progress, stage_of
from minit2i_deploy.protocol import Runtime


def measure_candidates(
    bundle: Bundle,
    runtime: Runtime,
    candidates: Sequence[Candidate],
    settings: MeterSettings,
    progress: Progress = no_progress,
) -> MeterReport:
    """Generate the same held-out captions with every candidate and compare.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        candidates: the others are paired with the first; names differ.
        settings: number of captions, seed, and fine reference.
        progress: called with the share of evaluations done, 0 to 1, and the candidate's name.

    Raises:
        UsageError: no candidates, two of one name, or one that does not fit the bundle.
        RuntimeFailure: the engine failed.
    """
    return MeterReport(
        bundle=bundle.digest,
        runtime=runtime.name,
        settings=settings,
        outcomes=tuple(iter_outcomes(bundle, runtime, candidates, settings, progress)),
    )


def iter_outcomes(
    bundle: Bundle,
    runtime: Runtime,
    candidates: Sequence[Candidate],
    settings: MeterSettings,
    progress: Progress = no_progress,
) -> Iterator[Outcome]:
    """Like ``measure_candidates``, but an iterator of outcomes; leaving the loop cancels the rest.

    Args and Raises: as ``measure_candidates``.
    """
    references = _references(candidates, settings)
    total = count_evaluations(candidates, settings)
    generator = _CaptionGenerator(bundle, runtime, settings, total, progress)
    compared = generator.compared
    fine_states: dict[Candidate, np.ndarray] = {}
    baseline: list[bool] | None = None
    for candidate, reference in zip(candidates, references, strict=True):
        if reference is not None and reference not in fine_states:
            fine_states[reference] = np.concatenate(
                [result.x for _, result in generator.run(reference, compared)]
            )
        tally = _Tally(bundle.config.patch_size)
        for indices, result in generator.run(candidate, range(len(generator.captions))):
            tally.add([generator.captions[i][0] for i in indices], result)
            tally.store_states(indices, result, compared)
        distance = None
        if reference is not None:
            distance = _distance(np.stack(tally.states), fine_states[reference])
        yield tally.outcome(candidate, baseline, distance)
        baseline = tally.correct if baseline is None else baseline


def count_evaluations(candidates: Sequence[Candidate], settings: MeterSettings) -> int:
    """Evaluations of the denoiser, each of one image, that ``measure_candidates`` would take.

    Raises:
        UsageError: no candidates, two of one name, or too few reference steps for one.
    """
    fine = {one for one in _references(candidates, settings) if one is not None}
    compared = min(settings.reference_per_kind, settings.per_kind)
    scored = settings.per_kind * sum(one.num_evaluations for one in candidates)
    return len(KINDS) * (scored + compared * sum(one.num_evaluations for one in fine))


def _references(candidates: Sequence[Candidate], settings: MeterSettings) -> list[Candidate | None]:
    names = [one.name for one in candidates]
    duplicate = sorted({name for name in names if names.count(name) > 1})
    if not names or duplicate:
        raise UsageError(
            f"duplicate tables {', '.join(duplicate)}; give each once"
            if duplicate
            else "expected at least one table"
        )
    return [_reference(one, settings.reference_steps) for one in candidates]


def _reference(candidate: Candidate, steps: int) -> Candidate | None:
    fine = fine_table(candidate.table, steps) if steps else None
    if fine is None:
        return None
    return Candidate(name=fine.name, table=fine, guidance=candidate.guidance)


class _CaptionGenerator:
    """Generates captions by index, each from the noise of its seed, and reports progress."""

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        settings: MeterSettings,
        total: int,
        progress: Progress,
    ) -> None:
        self.bundle, self.runtime, self.settings = bundle, runtime, settings
        self.total, self.progress, self.done = total, progress, 0
        self.captions = held_out_captions(settings.per_kind, settings.seed)
        first = range(min(settings.reference_per_kind, settings.per_kind))
        starts = range(0, len(self.captions), settings.per_kind)
        self.compared = [start + offset for start in starts for offset in first]

    def run(
        self, candidate: Candidate, indices: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Result]]:
        """Yield the indices and the result of each batch."""
        for start in range(0, len(indices), self.settings.batch):
            batch = indices[start : start + self.settings.batch]
            begin, self.done = self.done, self.done + len(batch) * candidate.num_evaluations
            # Rows of one branch take half as long, so progress is only approximately even.
            part = stage_of(
                self.progress, begin / self.total, self.done / self.total, candidate.name
            )
            yield (
                batch,
                generate(
                    self.bundle,
                    self.runtime,
                    [self.captions[i][1] for i in batch],
                    seed=[self.settings.seed + i for i in batch],
                    table=candidate.table,
                    guidance=candidate.guidance,
                    on_row=by_count(part),
                ),
            )


class _Tally:
    """Collects verdicts and figures of one candidate's images."""

    def __init__(self, patch_size: int) -> None:
        self.patch_size = patch_size
        self.results: list[tuple[Spec, Verdict]] = []
        self.figures: list[np.ndarray] = []
        self.gradients: list[np.ndarray] = []
        self.states: list[np.ndarray] = []
        self.seconds = 0.0

    @property
    def correct(self) -> list[bool]:
        return [verdict.correct for _, verdict in self.results]

    def add(self, specs: Sequence[Spec], result: Result) -> None:
        for spec, image in zip(specs, result.images, strict=True):
            self.results.append((spec, judge(np.asarray(image), spec)))
        self.figures.append(
            np.stack([image_metrics.share_outside(result.x), image_metrics.share_clipped(result.x)])
        )
        self.gradients.append(image_metrics.seam_gradients(result.x, self.patch_size))
        # Encoding and images take the same time with every table.
        self.seconds += result.timings["steps"]

    def store_states(self, indices: Sequence[int], result: Result, compared: Sequence[int]) -> None:
        self.states += [x for i, x in zip(indices, result.x, strict=True) if i in compared]

    def outcome(
        self, candidate: Candidate, baseline: Sequence[bool] | None, distance: Distance | None
    ) -> Outcome:
        outside, clipped = np.concatenate(self.figures, axis=1).mean(axis=1).tolist()
        return Outcome(
            candidate=candidate,
            score=ShapesScore.of(self.results),
            paired=None if baseline is None else PairedVerdicts.of(self.correct, baseline),
            distance=distance,
            outside=outside,
            clipped=clipped,
            seams=image_metrics.seam_ratios(np.concatenate(self.gradients)),
            seconds=self.seconds / len(self.results),
        )


def _distance(
    x: Float32[np.ndarray, "batch 3 height width"],
    reference: Float32[np.ndarray, "batch 3 height width"],
) -> Distance:
    return Distance(
        psnr_db=float(image_metrics.psnr(x, reference).mean()),
        gmsd=float(image_metrics.gmsd(x, reference).mean()),
        num_images=len(x),
    )
