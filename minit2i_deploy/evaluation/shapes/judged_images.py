"""Generate an image for each caption and judge it, for the demo and ``minit2i eval shapes``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes import Spec, Verdict, judge
from minit2i_deploy.generate import generate
from minit2i_deploy.progress import Progress, by_count, no_progress, stage_of
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.solvers.table import Table

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedImage:
    """One judged image; ``timings`` are stage to seconds of its batch."""

    caption: str
    spec: Spec
    seed: int
    image: Image
    verdict: Verdict
    timings: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """All but the image and the timings, ready for JSON."""
        return {
            "kind": self.spec.kind,
            "caption": self.caption,
            "seed": self.seed,
            "correct": self.verdict.correct,
            "reason": self.verdict.reason,
        }


def generate_judged_images(
    bundle: Bundle,
    runtime: Runtime,
    captions: Sequence[tuple[Spec, str]],
    *,
    table: Table,
    guidance: float,
    seed: int = 0,
    batch: int = 1,
    progress: Progress = no_progress,
) -> Iterator[JudgedImage]:
    """Generate an image for each caption and judge it.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        captions: spec and text of each.
        table: solver.
        guidance: scale of classifier-free guidance.
        seed: of the first image; the next has seed + 1. The images do not depend on batch.
        batch: images generated at once, at least 1.
        progress: called with the share that is done, 0 to 1.

    Raises:
        UsageError: batch is below 1.
        RuntimeFailure: the engine failed.
    """
    if batch < 1:
        raise UsageError(f"batch: expected at least 1, got {batch}")
    for start in range(0, len(captions), batch):
        items = captions[start : start + batch]
        stop = start + len(items)
        seeds = range(seed + start, seed + stop)
        part = stage_of(progress, start / len(captions), stop / len(captions))
        result = generate(
            bundle,
            runtime,
            [caption for _, caption in items],
            seed=list(seeds),
            table=table,
            guidance=guidance,
            on_row=by_count(part),
        )
        for (spec, caption), image_seed, image in zip(items, seeds, result.images, strict=True):
            yield JudgedImage(
                caption=caption,
                spec=spec,
                seed=image_seed,
                image=image,
                verdict=judge(np.asarray(image), spec),
                timings=result.timings,
            )
