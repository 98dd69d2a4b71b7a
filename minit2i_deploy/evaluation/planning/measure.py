"""Measure one device for about a second, on the work of the job itself."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.planning.forecast import Measured
from minit2i_deploy.generate import Frame, trajectory
from minit2i_deploy.io.images import encode_png, to_pil
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.embed_blocks import save_part
from minit2i_deploy.text.embed_job import make_part
from minit2i_deploy.text.embedding_files import Contents
from minit2i_deploy.text.encoder import SequenceEncoder
from minit2i_deploy.text.text_lines import Line

_LEAST_ROWS: Final = 3
# Frames of a table whose rows are all alike need not all be timed.
_LEAST_BATCHES: Final = 2


def measure_embed(
    bundle: Bundle,
    open_engine: Callable[[], Runtime],
    texts: Sequence[str],
    *,
    batch_size: int,
    contents: Contents,
    suffix: str,
    seconds: float = 1.0,
) -> Measured:
    """Embed windows of texts and write them, until enough time has passed.

    Args:
        bundle: to run.
        open_engine: opens its runtime, which is timed.
        texts: a sample of the job's, at least one; taken again from the start if they run out.
        batch_size: texts encoded at once.
        contents: arrays to write.
        suffix: of the part files.
        seconds: least time to measure.

    Raises:
        UsageError: no text.
        RuntimeFailure: the engine failed.
    """
    if not texts:
        raise UsageError("expected at least one text to measure, got none")
    began = time.perf_counter()
    with open_engine() as runtime, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"part{suffix}"
        window = 8 * batch_size

        def run(start: int) -> int:
            picked = [texts[(start + n) % len(texts)] for n in range(window)]
            lines = [Line(number=n + 1, text=text) for n, text in enumerate(picked)]
            encoder = SequenceEncoder(bundle, runtime, batch_size=batch_size, cache_bytes=0)
            save_part(path, make_part(encoder, lines, contents)[0], contents)
            return path.stat().st_size

        run(0)
        opening_s = time.perf_counter() - began
        sizes: list[int] = []
        times: list[float] = []
        while len(times) < _LEAST_BATCHES or sum(times) < seconds:
            start = time.perf_counter()
            sizes.append(run((len(times) + 1) * window))
            times.append(time.perf_counter() - start)
    # The first window is also work; only what it took beyond another's is opening.
    opening_s = max(0.0, opening_s - median(times))
    return Measured(
        items_per_s=len(times) * window / sum(times),
        opening_s=opening_s,
        item_bytes=sum(sizes) / len(sizes) / window,
        memory_bytes=peak_memory_bytes(),
    )


def measure_images(
    bundle: Bundle,
    open_engine: Callable[[], Runtime],
    prompts: Sequence[str],
    *,
    table: Table,
    guidance: float,
    batch: int,
    seconds: float = 1.0,
) -> Measured:
    """Run the first rows of batches and the stages around them, until enough time has passed.

    Args:
        bundle: to run.
        open_engine: opens its runtime, which is timed.
        prompts: a sample of the job's, at least one.
        table: solver, whose other rows are taken to be like the measured ones.
        guidance: scale of classifier-free guidance.
        batch: images generated at once.
        seconds: least time to measure.

    Raises:
        UsageError: no prompt.
        RuntimeFailure: the engine failed.
    """
    if not prompts:
        raise UsageError("expected at least one prompt to measure, got none")
    began = time.perf_counter()
    picked = [prompts[n % len(prompts)] for n in range(batch)]
    with open_engine() as runtime:
        timings: dict[str, float] = {}
        frames = trajectory(
            bundle,
            runtime,
            picked,
            seed=list(range(batch)),
            table=table,
            guidance=guidance,
            timings=timings,
        )
        images, row_s, first_s = _first_rows(frames, began, seconds)
        # The rows that remain are canceled while their runtime is open.
        del frames
    start = time.perf_counter()
    sizes = [len(encode_png(image, {})) for image in to_pil(images)]
    around_s = time.perf_counter() - start + sum(timings.values())
    return Measured(
        items_per_s=batch / (around_s + len(table) * row_s),
        opening_s=max(0.0, first_s - sum(timings.values()) - row_s),
        item_bytes=sum(sizes) / batch,
        memory_bytes=peak_memory_bytes(),
    )


def _first_rows(
    frames: Iterator[Frame], began: float, seconds: float
) -> tuple[Float32[np.ndarray, "batch 3 height width"], float, float]:
    """Images as they will be, mean seconds of a row, and seconds until the first row ended."""
    rows: list[float] = []
    first_s, before = 0.0, None
    for frame in frames:
        if frame.index == 0:
            first_s = time.perf_counter() - began
        if frame.index > 0 or frame.total == 1:
            rows.append(frame.seconds)
        is_last = frame.index == frame.total - 1
        if is_last or (len(rows) >= _LEAST_ROWS and sum(rows) >= seconds):
            # Before the last row the state is still noise, whose file would be twice as large.
            images = frame.x() if is_last else replace(frame, before=before).estimate()
            return images, float(np.mean(rows)), first_s
        before = frame.x()
    raise AssertionError("a table has at least one row")


def peak_memory_bytes() -> int:
    """Peak of this process; 0 where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
