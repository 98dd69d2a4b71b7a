"""Run a comparison: generate batch after batch on both bundles and measure the images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

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
    """How to generate, and how many images to examine in detail.

    Args:
        table: solver, the same for both.
        guidance: scale of classifier-free guidance, the same for both.
        batch: images generated at once, at least 1.
        details: images that are measured at every row and shown, at least 1.

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
                raise UsageError(f"{name}: expected at least 1, got {getattr(self, name)}")


def compare(
    a: Contender,
    b: Contender,
    cases: Sequence[PromptCase],
    settings: CompareSettings,
    progress: Progress = no_progress,
) -> Comparison:
    """Generate the same cases with both bundles and compare the images.

    Args:
        a: the reference.
        b: what is compared with it.
        cases: at least one.
        settings: table, guidance, and how many images in detail.
        progress: called with the share done, 0 to 1, and a label of the stage.

    Raises:
        UsageError: no cases, or bundles that cannot be compared.
        RuntimeFailure: an engine failed, or gave NaN or infinity.
    """
    check_comparable(a.bundle, b.bundle)
    if not cases:
        raise UsageError("no prompts; give at least one")
    # Warns of truncated prompts once here, and not again for each bundle and batch.
    tokenize(a.bundle, list(dict.fromkeys(case.prompt for case in cases)), stacklevel=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptTruncatedWarning)
        return _ComparisonRun(a, b, cases, settings, progress).run()


class _ComparisonRun:
    def __init__(
        self,
        a: Contender,
        b: Contender,
        cases: Sequence[PromptCase],
        settings: CompareSettings,
        progress: Progress,
    ) -> None:
        self.a, self.b, self.cases, self.settings = a, b, cases, settings
        self.progress, self.done = progress, 0
        self.detailed = spread_indices(cases, settings.details)
        rest = [index for index in range(len(cases)) if index not in set(self.detailed)]
        self.batches = [
            (indices[start : start + settings.batch], details)
            for indices, details in ((self.detailed, True), (rest, False))
            for start in range(0, len(indices), settings.batch)
        ]
        # With details B takes every row twice: on its own trajectory and from A's states.
        self.total = sum(len(indices) * (3 if d else 2) for indices, d in self.batches)

    def run(self) -> Comparison:
        pairs: dict[int, ImagePair] = {}
        states: list[PairStates] = []
        errors: list[RowErrors] = []
        gradients: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for indices, details in self.batches:
            result = self._run_batch(indices, details)
            cases = [self.cases[index] for index in indices]
            measured = measure_pairs(cases, result.x_a, result.x_b)
            pairs |= zip(indices, measured, strict=True)
            for side, x, batches in zip(
                (self.a, self.b), (result.x_a, result.x_b), gradients, strict=True
            ):
                patch_size = side.bundle.config.patch_size
                batches.append(image_metrics.seam_gradients(x, patch_size))
            if result.row_errors is not None:
                errors.append(result.row_errors)
                states += [
                    PairStates(index=index, x_a=x_a, x_b=x_b)
                    for index, x_a, x_b in zip(indices, result.x_a, result.x_b, strict=True)
                ]
        ratios = [image_metrics.seam_ratios(np.concatenate(batches)) for batches in gradients]
        return Comparison(
            sides=(self.a.to_dict(), self.b.to_dict()),
            table=self.settings.table.name,
            guidance=self.settings.guidance,
            times=self.settings.table.column("t"),
            pairs=tuple(pairs[index] for index in sorted(pairs)),
            row_errors=_concatenate(errors),
            seams=(ratios[0], ratios[1]),
            states=tuple(states),
        )

    def _run_batch(self, indices: Sequence[int], details: bool) -> LockstepResult:
        begin, self.done = self.done, self.done + len(indices) * (3 if details else 2)
        label = "row by row" if details else "images"
        part = stage_of(self.progress, begin / self.total, self.done / self.total, label)
        return run_lockstep(
            self.a,
            self.b,
            [self.cases[index] for index in indices],
            self.settings.table,
            self.settings.guidance,
            details=details,
            progress=part,
        )


def measure_pairs(
    cases: Sequence[PromptCase],
    x_a: Float32[np.ndarray, "batch 3 height width"],
    x_b: Float32[np.ndarray, "batch 3 height width"],
) -> list[ImagePair]:
    """Measure and judge final states of two bundles, image by image.

    Args:
        cases: what was generated, one for each image.
        x_a: float32 [batch, 3, H, W], -1 black to 1 white, of the reference.
        x_b: float32 [batch, 3, H, W], what is compared with it.
    """
    first, second = to_uint8(x_a), to_uint8(x_b)
    off = np.abs(first.astype(np.int16) - second.astype(np.int16))
    psnr, gmsd = image_metrics.psnr(x_b, x_a), image_metrics.gmsd(x_b, x_a)
    similarity = ssim(x_b, x_a)
    return [
        ImagePair(
            case=case,
            psnr_db=float(psnr[i]),
            ssim=float(similarity[i]),
            gmsd=float(gmsd[i]),
            bytes_off=float((off[i] > 0).mean()),
            levels_off=int(off[i].max()),
            verdicts=_verdicts(case, first[i], second[i]),
        )
        for i, case in enumerate(cases)
    ]


def _verdicts(case: PromptCase, a: np.ndarray, b: np.ndarray) -> tuple[Verdict, Verdict] | None:
    return None if case.spec is None else (judge(a, case.spec), judge(b, case.spec))


def _concatenate(batches: Sequence[RowErrors]) -> RowErrors:
    return RowErrors(
        tokens=np.concatenate([batch.tokens for batch in batches]),
        estimate=np.concatenate([batch.estimate for batch in batches], axis=1),
        step=np.concatenate([batch.step for batch in batches], axis=1),
        drift=np.concatenate([batch.drift for batch in batches], axis=1),
    )
