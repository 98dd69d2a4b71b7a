"""Paint what was planned, batch by batch, and write each picture as soon as it is there."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support import output_paths
from minit2i_deploy.cli.support.image_plan import Picture
from minit2i_deploy.generate import Frame, Result, generate
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.io.images import grid, save_animation, save_png, to_pil
from minit2i_deploy.progress import Progress, stage_of
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.conditioning import Stopwatch
from minit2i_deploy.text.encoder import encode_ahead
from minit2i_deploy.text.prompts import as_mix

if TYPE_CHECKING:
    from PIL.Image import Image

_FRAME_MS: Final = 100
_LAST_FRAME_MS: Final = 1500


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """Pictures to paint, the file of each, and how; ``options`` are those of the command."""

    options: argparse.Namespace
    bundle: Bundle
    table: Table
    guidance: float
    pictures: Sequence[Picture]
    files: Sequence[Path]


@dataclass(kw_only=True, slots=True, eq=False)
class Spent:
    """Where the time went.

    Args:
        timings: stage to seconds, over all pictures; of --repeat, the last time only.
        latencies: of each batch, seconds from its prompts to its pictures, each time it was
            painted.
        graphs: what a runtime with CUDA graphs ran the rows from; None of the others.
    """

    timings: dict[str, float] = field(default_factory=dict)
    latencies: list[list[float]] = field(default_factory=list)
    graphs: str | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class _Kept:
    """What is written after the last picture; lists stay empty where nobody asked."""

    sheet: list[Image] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    frames: list[Image] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)


def paint(job: Job, runtime: Runtime, progress: Progress) -> Spent:
    """Paint and write everything.

    Raises:
        UsageError: arguments that do not fit together, or a place that cannot be written.
        RuntimeFailure: the engine failed.
    """
    kept, options = _Kept(), job.options
    timings = kept.spent.timings
    texts = [text for picture in job.pictures for text in as_mix(picture.prompt).texts]
    with Stopwatch(timings, "encode"):
        # All before the first picture, so that a lean runtime opens its text encoder once.
        encode_ahead(job.bundle, runtime, texts)
    for start in range(0, len(job.pictures), options.batch):
        result = _repeated(job, runtime, start, kept, progress)
        for offset, image in enumerate(result.images):
            index = start + offset
            record = _record(job, job.pictures[index])
            save_png(image, job.files[index], record.fields())
        for stage, seconds in result.timings.items():
            timings[stage] = timings.get(stage, 0.0) + seconds
        if options.save_state is not None:
            kept.states.append(result.x)
        if options.grid is not None:
            kept.sheet += result.images
        if options.animate is not None:
            kept.frames += result.images
    _write_kept(job, kept)
    kept.spent.graphs = getattr(runtime, "graphs", None)
    return kept.spent


def _repeated(job: Job, runtime: Runtime, start: int, kept: _Kept, progress: Progress) -> Result:
    """One batch as often as --repeat asks; the last time's pictures."""
    times, latencies = job.options.repeat or 1, []
    stop, total = min(start + job.options.batch, len(job.pictures)), len(job.pictures)
    batch = stage_of(progress, start / total, stop / total)
    for done in range(times):
        began = time.perf_counter()
        result = _batch(job, runtime, start, kept, batch if times == 1 else None)
        latencies.append(time.perf_counter() - began)
        if times > 1:
            batch((done + 1) / times, f"time {done + 1}/{times}, {latencies[-1] * 1e3:.1f} ms")
    kept.spent.latencies.append(latencies)
    return result


def _batch(
    job: Job,
    runtime: Runtime,
    start: int,
    kept: _Kept,
    progress: Progress | None,
) -> Result:
    options = job.options
    chosen = job.pictures[start : start + options.batch]
    given = [picture.noise for picture in chosen if picture.noise is not None]
    looks = options.preview is not None or options.animate is not None

    def on_row(done: int, total: int) -> None:
        if progress is not None:
            progress(done / total, f"row {done}/{total}")

    def on_frame(frame: Frame) -> None:
        if frame.index % (options.every or 1) == 0 or frame.index == frame.total - 1:
            _keep_estimate(job, start, frame, kept)

    return generate(
        job.bundle,
        runtime,
        [picture.prompt for picture in chosen],
        seed=[picture.seed for picture in chosen],
        table=job.table,
        guidance=job.guidance,
        negative=options.negative,
        noise=np.stack(given) if given else None,
        # Without it a runtime may run all rows without a pause.
        on_frame=on_frame if looks else None,
        # A runtime that is asked how far it is looks at a clock, which would show in a latency.
        on_row=None if progress is None else on_row,
        previews=looks,
    )


def _keep_estimate(job: Job, start: int, frame: Frame, kept: _Kept) -> None:
    images = to_pil(frame.estimate())
    if job.options.animate is not None:
        kept.frames += images
    if job.options.preview is None:
        return
    for path, image in zip(job.files[start:], images, strict=False):
        name = f"row-{frame.index:04d}.png"
        own = name if len(job.pictures) == 1 else f"{path.stem}-{name}"
        save_png(image, job.options.preview / own, {"t": repr(frame.t)})


def _record(job: Job, picture: Picture) -> Record:
    return Record.of(
        job.bundle,
        job.table,
        prompt=picture.prompt,
        seed=picture.seed,
        guidance=job.guidance,
        negative=job.options.negative,
        noise=picture.noise,
        runtime=job.options.runtime,
    )


def _write_kept(job: Job, kept: _Kept) -> None:
    options = job.options
    if options.save_state is not None:
        output_paths.write_npy(options.save_state, np.concatenate(kept.states))
    if options.animate is not None:
        save_animation(kept.frames, options.animate, frame_ms=_FRAME_MS, last_ms=_LAST_FRAME_MS)
    if options.grid is not None:
        many = len({picture.prompt for picture in job.pictures}) > 1
        columns = options.num_images if many else None
        side = math.ceil(math.sqrt(len(kept.sheet)))
        save_png(grid(kept.sheet, columns or side), options.grid, {"bundle": job.bundle.digest})
