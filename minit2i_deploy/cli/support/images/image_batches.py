"""Generate what was planned, batch by batch, and write each image as soon as it is there."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support import output_paths
from minit2i_deploy.cli.support.images.edit_inputs import EditInputs
from minit2i_deploy.cli.support.images.generate_options import GenerateOptions
from minit2i_deploy.cli.support.images.image_files import ImageFiles
from minit2i_deploy.cli.support.images.variations import ImageRequest
from minit2i_deploy.generate import Frame, Result, generate
from minit2i_deploy.io.image_formats import save_image
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
class GenerationJob:
    """Images to generate, where each goes, and how."""

    options: GenerateOptions
    bundle: Bundle
    table: Table
    guidance: float
    requests: Sequence[ImageRequest]
    inputs: EditInputs
    files: ImageFiles

    def check_records(self, runtime_name: str) -> None:
        """Refuse, before the work, records that the format of the images cannot hold.

        Raises:
            UsageError: the longest is too long.
        """
        if not math.isfinite(self.guidance):
            return  # which generate refuses
        texts = ["".join(request.prompt.texts) for request in self.requests]
        longest = max(range(len(texts)), key=lambda index: len(texts[index]))
        self.files.check_record(self.record(longest, runtime_name))

    def record(self, index: int, runtime_name: str) -> Record:
        """The record of one image."""
        request = self.requests[index]
        return Record.of(
            self.bundle,
            self.table,
            prompt=request.prompt,
            seed=request.seed,
            guidance=self.guidance,
            negative=self.options.negative,
            noise=request.noise,
            runtime=runtime_name,
            edit=self.inputs.record,
            variation=request.variation,
            size=self.bundle.size,
        )


@dataclass(kw_only=True, slots=True, eq=False)
class JobReport:
    """What was generated and where the time went.

    Args:
        records: of each image.
        timings: stage to seconds, over all images; of --repeat, the last time only.
        latencies: of each batch, seconds from prompts to images, each time it was generated.
        graphs: what a runtime with CUDA graphs ran the rows from; None of the others.
    """

    records: list[Record] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    latencies: list[list[float]] = field(default_factory=list)
    graphs: str | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class _Buffers:
    """What is written after the last image; lists stay empty where the output is not asked for."""

    images: list[Image] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)
    frames: list[Image] = field(default_factory=list)


def run_job(job: GenerationJob, runtime: Runtime, progress: Progress) -> JobReport:
    """Generate and write everything.

    Raises:
        UsageError: arguments that do not fit together, or a place that cannot be written.
        RuntimeFailure: the engine failed.
    """
    report, buffers, options = JobReport(), _Buffers(), job.options
    texts = [text for request in job.requests for text in as_mix(request.prompt).texts]
    with Stopwatch(report.timings, "encode"):
        # All before the first image, so that a lean runtime opens its text encoder once.
        encode_ahead(job.bundle, runtime, texts)
    for start in range(0, len(job.requests), options.batch):
        result = _run_batch(job, runtime, start, report, buffers, progress)
        for index, image in enumerate(result.images, start):
            record, path = job.record(index, runtime.name), job.files.paths[index]
            save_image(image, path, record.fields(num_rows=len(job.table)))
            job.files.add_to_index(path, record)
            report.records.append(record)
        for stage, seconds in result.timings.items():
            report.timings[stage] = report.timings.get(stage, 0.0) + seconds
        _buffer(options, buffers, result)
    _write_buffers(job, buffers)
    report.graphs = getattr(runtime, "graphs", None)
    return report


def _run_batch(
    job: GenerationJob,
    runtime: Runtime,
    start: int,
    report: JobReport,
    buffers: _Buffers,
    progress: Progress,
) -> Result:
    """One batch as often as --repeat asks; the result of the last time."""
    repeats, latencies = job.options.repeat or 1, []
    stop, total = min(start + job.options.batch, len(job.requests)), len(job.requests)
    batch_progress = stage_of(progress, start / total, stop / total)
    for done in range(repeats):
        began = time.perf_counter()
        # A runtime that reports progress looks at a clock, which would show in a latency.
        rows_progress = batch_progress if repeats == 1 else None
        result = _generate(job, runtime, start, buffers, rows_progress)
        latencies.append(time.perf_counter() - began)
        if repeats > 1:
            label = f"time {done + 1}/{repeats}, {latencies[-1] * 1e3:.1f} ms"
            batch_progress((done + 1) / repeats, label)
    report.latencies.append(latencies)
    return result


def _generate(
    job: GenerationJob,
    runtime: Runtime,
    start: int,
    buffers: _Buffers,
    progress: Progress | None,
) -> Result:
    options = job.options
    batch = job.requests[start : start + options.batch]
    noises = [request.start_noise(job.bundle.config.image_shape) for request in batch]
    noise = [array for array in noises if array is not None]
    shows_frames = options.preview is not None or options.animate is not None

    def on_row(done: int, total: int) -> None:
        if progress is not None:
            progress(done / total, f"row {done}/{total}")

    def on_frame(frame: Frame) -> None:
        if frame.index % (options.every or 1) == 0 or frame.index == frame.total - 1:
            _show_estimate(job, start, frame, buffers)

    return generate(
        job.bundle,
        runtime,
        [request.prompt for request in batch],
        seed=[request.seed for request in batch],
        table=job.table,
        guidance=job.guidance,
        negative=options.negative,
        noise=np.stack(noise) if noise else None,
        # Without it a runtime may run all rows without a pause.
        on_frame=on_frame if shows_frames else None,
        on_row=None if progress is None else on_row,
        previews=shows_frames,
        **job.inputs.arguments,
    )


def _show_estimate(job: GenerationJob, start: int, frame: Frame, buffers: _Buffers) -> None:
    images = to_pil(frame.estimate())
    if job.options.animate is not None:
        buffers.frames += images
    if job.options.preview is None:
        return
    for path, image in zip(job.files.paths[start:], images, strict=False):
        row = f"row-{frame.index:04d}.png"
        name = row if len(job.requests) == 1 else f"{path.stem}-{row}"
        save_png(image, job.options.preview / name, {"t": repr(frame.t)})


def _buffer(options: GenerateOptions, buffers: _Buffers, result: Result) -> None:
    if options.save_state is not None:
        buffers.states.append(result.x)
    if options.grid is not None:
        buffers.images += result.images
    if options.animate is not None:
        buffers.frames += result.images


def _write_buffers(job: GenerationJob, buffers: _Buffers) -> None:
    options = job.options
    if options.save_state is not None:
        output_paths.write_npy(options.save_state, np.concatenate(buffers.states))
    if options.animate is not None:
        save_animation(buffers.frames, options.animate, frame_ms=_FRAME_MS, last_ms=_LAST_FRAME_MS)
    if options.grid is not None:
        several = len({request.prompt for request in job.requests}) > 1
        columns = options.num_images if several else None
        side = math.ceil(math.sqrt(len(buffers.images)))
        sheet = grid(buffers.images, columns or side)
        save_image(sheet, options.grid, {"bundle": job.bundle.digest})
