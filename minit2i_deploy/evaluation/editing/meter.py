"""Run editing cases under tables and strengths, and judge the results.

All candidates edit the same cases from the same noise, so their verdicts are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.editing.cases import (
    ADD,
    IMAGE_TO_IMAGE,
    RECOLOUR,
    REMOVE,
    EditingCase,
    editing_cases,
)
from minit2i_deploy.evaluation.editing.editing_report import EditingOutcome, EditingReport
from minit2i_deploy.evaluation.quality.candidates import Candidate
from minit2i_deploy.evaluation.shapes import Object, detect, judge
from minit2i_deploy.evaluation.shapes.scene import FRAME, colours_of
from minit2i_deploy.generate import generate
from minit2i_deploy.progress import Progress, by_count, no_progress, stage_of
from minit2i_deploy.protocol import Runtime

MASKED_TASKS: Final = (ADD, REMOVE, RECOLOUR)
# An object counts as in its place up to here, in pixels of a 64-pixel frame.
_PLACE_TOLERANCE: Final = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class EditingSettings:
    """What all candidates of a report share.

    Args:
        count: cases of each task, at least 1.
        tasks: of MASKED_TASKS.
        strengths: of image-to-image, each 0 to 1; none leaves that task out.
        seed: of the cases, and of the first image's noise; the next has seed + 1.
        batch: images generated at once, at least 1.

    Raises:
        UsageError: a number outside these ranges, or nothing to measure.
    """

    count: int
    tasks: tuple[str, ...] = MASKED_TASKS
    strengths: tuple[float, ...] = ()
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        for name in ("count", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise UsageError(f"seed: expected 0 or more, got {self.seed}")
        unknown = sorted(set(self.tasks) - set(MASKED_TASKS))
        if unknown:
            raise UsageError(
                f"tasks: expected some of {', '.join(MASKED_TASKS)}, got {', '.join(unknown)}"
            )
        for strength in self.strengths:
            if not 0.0 <= strength <= 1.0:
                raise UsageError(f"strengths: expected numbers from 0 to 1, got {strength!r}")
        if not self.tasks and not self.strengths:
            raise UsageError("expected at least one task or strength")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """One task under one candidate; ``strength`` of image-to-image only."""

    candidate: Candidate
    task: str
    strength: float | None = None


def measure_editing(
    bundle: Bundle,
    runtime: Runtime,
    candidates: Sequence[Candidate],
    settings: EditingSettings,
    progress: Progress = no_progress,
) -> EditingReport:
    """Edit the cases of every task under every candidate and judge them.

    Args:
        bundle: of format version 2 where tasks have masks; of the size that the shapes data have.
        runtime: an open runtime of that bundle.
        candidates: the first is the one that the others are compared with.
        settings: cases, strengths and seeds.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UsageError: no candidates, or a bundle that cannot edit.
        RuntimeFailure: the engine failed.
    """
    if not candidates:
        raise UsageError("expected at least one table")
    height, width = bundle.config.image_shape[1:]
    if height != width:
        raise UsageError(f"the scenes are square, but the bundle's images are {width}x{height}")
    runs = [
        *(_Run(candidate=one, task=task) for task in settings.tasks for one in candidates),
        *(
            _Run(candidate=one, task=IMAGE_TO_IMAGE, strength=strength)
            for strength in settings.strengths
            for one in candidates
        ),
    ]
    outcomes: list[EditingOutcome] = []
    for index, run in enumerate(runs):
        part = stage_of(progress, index / len(runs), (index + 1) / len(runs), run.task)
        cases = editing_cases(run.task, settings.count, settings.seed, height)
        outcomes.append(_measure(bundle, runtime, run, cases, settings, part))
    return EditingReport(
        bundle=bundle.digest,
        runtime=runtime.name,
        settings=settings.to_dict(),
        outcomes=tuple(outcomes),
    )


def _measure(
    bundle: Bundle,
    runtime: Runtime,
    run: _Run,
    cases: Sequence[EditingCase],
    settings: EditingSettings,
    progress: Progress,
) -> EditingOutcome:
    followed, in_place, unchanged = [], [], []
    seconds = 0.0
    for start in range(0, len(cases), settings.batch):
        batch = cases[start : start + settings.batch]
        stop = start + len(batch)
        part = stage_of(progress, start / len(cases), stop / len(cases))
        result = generate(
            bundle,
            runtime,
            [case.caption for case in batch],
            seed=[settings.seed + place for place in range(start, stop)],
            table=run.candidate.table,
            guidance=run.candidate.guidance,
            on_row=by_count(part),
            **_edit(batch, run.strength),
        )
        seconds += result.timings["steps"]
        num_evaluations = sum(len(row.weights) for row in result.request.rows)
        for case, image in zip(batch, result.images, strict=True):
            pixels = np.asarray(image)
            followed.append(judge(pixels, case.spec).correct)
            in_place.append(_all_in_place(pixels, case))
            unchanged.append(bool((pixels == case.image)[~case.is_open].all()))
    return EditingOutcome(
        task=run.task,
        candidate=run.candidate,
        strength=run.strength,
        num_evaluations=num_evaluations,
        followed=tuple(followed),
        in_place=tuple(in_place),
        unchanged=tuple(unchanged),
        seconds=seconds / len(cases),
    )


def _edit(cases: Sequence[EditingCase], strength: float | None) -> dict[str, Any]:
    """The arguments of ``generate`` that edit the images of some cases."""
    pixels = np.stack([case.image for case in cases]).transpose(0, 3, 1, 2)
    images = pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)
    if strength is not None:
        return {"init_image": images, "strength": strength}
    masks = np.stack([case.is_open[None].astype(np.float32) for case in cases])
    return {"known": images, "mask": masks}


def _all_in_place(pixels: np.ndarray, case: EditingCase) -> bool:
    """Whether every object that stays is detected with its shape at its place."""
    detections = detect(pixels, colours_of(case.spec.kind)).detections
    scale = len(pixels) / FRAME
    return all(
        any(
            one.shape == item.shape and _distance(one, item, scale) <= _PLACE_TOLERANCE
            for one in detections
        )
        for item in case.objects
    )


def _distance(one: Any, item: Object, scale: float) -> float:
    return max(abs(one.x / scale - item.x), abs(one.y / scale - item.y))
