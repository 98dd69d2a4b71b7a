"""The comparison itself: paint batch after batch on both sides, and keep the figures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minit2i_deploy.errors import PromptTruncatedWarning, UsageError
from minit2i_deploy.evaluation.compare.comparison_result import Comparison, ImagePair, PairStates
from minit2i_deploy.evaluation.compare.contenders import Contender, check_comparable
from minit2i_deploy.evaluation.compare.lockstep import LockstepResult, RowErrors, run_lockstep
from minit2i_deploy.evaluation.compare.prompt_cases import PromptCase, spread_indices
from minit2i_deploy.evaluation.compare.ssim import ssim
from minit2i_deploy.evaluation.quality import image_metrics
from minit2i_deploy.evaluation.shapes import Verdict, judge
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.conditioning import tokenize


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareSettings:
    """How to paint, and how much of it to look at closely.

    Args:
        table: solver, the same on both sides.
        guidance: scale of classifier-free guidance, the same on both sides.
        batch: pictures painted at once, at least 1.
        details: pictures whose every row is measured and which are shown, at least 1.

    Raises:
        UsageError: a number below 1.
    """

    table: Table
    guidance: float
    batch: int = 8
    details: int = 12

    def __post_init__(self) -> None:
        for name in ("batch", "details"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but at least 1 is needed")


def compare(
    a: Contender,
    b: Contender,
    tasks: Sequence[PromptCase],
    settings: CompareSettings,
    progress: Progress = no_progress,
) -> Comparison:
    """Paint the same tasks on both sides and compare.

    Args:
        a: the reference.
        b: what is compared with it.
        tasks: at least one.
        settings: table, guidance and how much to look at.
        progress: called with the share done, 0 to 1, and a word on what is painted.

    Raises:
        UsageError: no tasks, or sides that cannot be compared.
        RuntimeFailure: an engine failed, or gave NaN or infinity.
    """
    check_comparable(a.bundle, b.bundle)
    if not tasks:
        raise UsageError("nothing to paint came; give at least one prompt")
    # Once here, and not again for every side and batch.
    tokenize(a.bundle, list(dict.fromkeys(task.prompt for task in tasks)), stacklevel=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        return _Comparing(a, b, tasks, settings, progress).run()


class _Comparing:
    def __init__(
        self,
        a: Contender,
        b: Contender,
        tasks: Sequence[PromptCase],
        settings: CompareSettings,
        progress: Progress,
    ) -> None:
        self.a, self.b, self.tasks, self.settings = a, b, tasks, settings
        self.progress, self.done = progress, 0
        self.close = spread_indices(tasks, settings.details)
        rest = [index for index in range(len(tasks)) if index not in set(self.close)]
        self.batches = [
            (indices[start : start + settings.batch], details)
            for indices, details in ((self.close, True), (rest, False))
            for start in range(0, len(indices), settings.batch)
        ]
        # B's rows once more where every row is measured.
        self.total = sum(len(chosen) * (3 if details else 2) for chosen, details in self.batches)

    def run(self) -> Comparison:
        pairs: dict[int, ImagePair] = {}
        shown: list[PairStates] = []
        found: list[RowErrors] = []
        sides = (self.a, self.b)
        gradients: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for indices, details in self.batches:
            walked = self._walk(indices, details)
            pairs |= zip(indices, self._pairs(indices, walked), strict=True)
            for side, x, kept in zip(sides, (walked.x_a, walked.x_b), gradients, strict=True):
                kept.append(image_metrics.seam_gradients(x, side.bundle.config.patch_size))
            if walked.details is not None:
                found.append(walked.details)
                shown += [
                    PairStates(index=index, x_a=x_a, x_b=x_b)
                    for index, x_a, x_b in zip(indices, walked.x_a, walked.x_b, strict=True)
                ]
        ratios = [image_metrics.seam_ratios(np.concatenate(kept)) for kept in gradients]
        return Comparison(
            sides=(self.a.to_dict(), self.b.to_dict()),
            table=self.settings.table.name,
            guidance=self.settings.guidance,
            times=self.settings.table.column("t"),
            pairs=tuple(pairs[index] for index in sorted(pairs)),
            details=_joined(found),
            seams=(ratios[0], ratios[1]),
            shown=tuple(shown),
        )

    def _walk(self, indices: Sequence[int], details: bool) -> LockstepResult:
        begin, self.done = self.done, self.done + len(indices) * (3 if details else 2)
        label = "row by row" if details else "images"
        part = stage_of(self.progress, begin / self.total, self.done / self.total, label)
        return run_lockstep(
            self.a,
            self.b,
            [self.tasks[index] for index in indices],
            self.settings.table,
            self.settings.guidance,
            details=details,
            progress=part,
        )

    def _pairs(self, indices: Sequence[int], walked: LockstepResult) -> list[ImagePair]:
        first, second = to_uint8(walked.x_a), to_uint8(walked.x_b)
        off = np.abs(first.astype(np.int16) - second.astype(np.int16))
        psnr = image_metrics.psnr(walked.x_b, walked.x_a)
        similar, far = ssim(walked.x_b, walked.x_a), image_metrics.gmsd(walked.x_b, walked.x_a)
        return [
            ImagePair(
                task=self.tasks[task],
                psnr_db=float(psnr[i]),
                ssim=float(similar[i]),
                gmsd=float(far[i]),
                bytes_off=float((off[i] > 0).mean()),
                levels_off=int(off[i].max()),
                verdicts=_verdicts(self.tasks[task], first[i], second[i]),
            )
            for i, task in enumerate(indices)
        ]


def _verdicts(task: PromptCase, a: np.ndarray, b: np.ndarray) -> tuple[Verdict, Verdict] | None:
    return None if task.spec is None else (judge(a, task.spec), judge(b, task.spec))


def _joined(found: Sequence[RowErrors]) -> RowErrors:
    return RowErrors(
        tokens=np.concatenate([one.tokens for one in found]),
        estimate=np.concatenate([one.estimate for one in found], axis=1),
        step=np.concatenate([one.step for one in found], axis=1),
        drift=np.concatenate([one.drift for one in found], axis=1),
    )
