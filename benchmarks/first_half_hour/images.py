"""Images of 20 guided rows on a runtime: seconds, the final state, and its distance to another."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import minit2i_deploy as m
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import solver_table

ROWS: Final = 20
GUIDANCE: Final = 2.5
# Recordings are checked in their first replays, and clocks rise.
_WARM_UP: Final = 3


def rows(num_rows: int = ROWS) -> list[Row]:
    """Rows with guidance."""
    return list(solver_table("euler", steps=num_rows).steps(GUIDANCE))


def inputs(bundle: m.Bundle, batch: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Start state float32 [batch, 3, H, W], tokens float32 [2, batch, L, hidden]."""
    config = bundle.config
    shape = (config.in_channels, config.image_size, config.image_size)
    tokens = (2, batch, config.num_text_tokens, config.hidden_size)
    x = batch_noise(range(seed, seed + batch), shape)
    return x, np.random.default_rng(seed).standard_normal(tokens, dtype=np.float32)


def run_image(
    bundle: m.Bundle, runtime: Any, row_list: Sequence[Row], batch: int = 1, seed: int = 0
) -> np.ndarray:
    """The final state of a batch."""
    state = runtime.start(*inputs(bundle, batch, seed))
    if hasattr(state, "run_rows"):
        state.run_rows(row_list, lambda row: None)
    else:
        for row in row_list:
            state.step(row)
    x: np.ndarray = state.state()[0]
    return x


def timed(call: Callable[[], np.ndarray], num_images: int) -> tuple[dict[str, Any], np.ndarray]:
    """Seconds of the first image, milliseconds of a row of the others, and the last state."""
    seconds = []
    for _ in range(num_images):
        began = time.perf_counter()
        end = call()
        seconds.append(time.perf_counter() - began)
    later = seconds[_WARM_UP:] or seconds
    figures = {
        "first_s": round(seconds[0], 3),
        "ms_a_row": round(statistics.median(later) / ROWS * 1e3, 3),
        "least_ms": round(min(later) / ROWS * 1e3, 3),
        "images": len(seconds),
        "finite": bool(np.isfinite(end).all()),
    }
    return figures, end


def time_runtime(
    folder: Path,
    runtime: str,
    *,
    reference: np.ndarray | None = None,
    batches: Sequence[int] = (1,),
    num_images: int = 12,
    **options: Any,
) -> tuple[dict[str, Any], np.ndarray]:
    """Open a bundle on a runtime and time its images.

    Args:
        folder: of the bundle.
        runtime: as for ``open_runtime``.
        reference: final state of the first batch in float32.
        batches: sizes, the first one with the reference's.
        num_images: of each size.
        options: of the runtime.

    Returns:
        figures by batch, with warnings; the final state of the first batch.
    """
    bundle = m.Bundle.open(folder)
    result: dict[str, Any] = {}
    ends = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        began = time.perf_counter()
        with m.open_runtime(bundle, runtime, **options) as opened:
            result["open_s"] = round(time.perf_counter() - began, 2)
            for batch in batches:
                figures, end = timed(
                    lambda batch=batch: run_image(bundle, opened, rows(), batch), num_images
                )
                result[f"batch {batch}"] = figures
                ends.append(end)
    if reference is not None:
        result["difference"] = difference(ends[0], reference)
    if caught:
        result["warnings"] = [str(warning.message)[:160] for warning in caught[:3]]
    return result, ends[0]


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest expected value."""
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
