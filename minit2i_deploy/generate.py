"""From prompts to pictures. Read this file first: it is the whole main path, in order.

tokenise -> encode (real tokens only) -> adapt (once) -> noise -> for each row: step -> image
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle import Bundle
from minit2i_deploy.condition import (
    Stopwatch,
    branch_tokens,
    branch_weights,
    student_conditions,
)
from minit2i_deploy.errors import UsageError
from minit2i_deploy.images import to_pil
from minit2i_deploy.late import start_rows
from minit2i_deploy.noise import batch_noise, standard_noise
from minit2i_deploy.prompts import Mix, Prompt, common_shares
from minit2i_deploy.protocol import RowsTrajectory, Runtime, Trajectory
from minit2i_deploy.table import Table, guidance_weights, step_row

if TYPE_CHECKING:
    from PIL.Image import Image


class SettingIgnoredWarning(UserWarning):
    """A setting that has no effect beside the others; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The run after one row; ``index`` counts from 0 and ``total`` is the number of rows.

    The state moves on with the loop: take what is wanted of a frame before the next one.
    """

    index: int
    total: int
    t: float
    seconds: float
    slope: float = field(repr=False)
    state: Trajectory = field(repr=False)
    before: np.ndarray | None = field(repr=False, default=None)

    def x(self) -> Float32[np.ndarray, "batch 3 height width"]:
        """A copy of the state: float32 [batch, 3, H, W]; after the last row, the pictures."""
        return self.state.state()[0]

    def estimate(self) -> Float32[np.ndarray, "batch 3 height width"]:
        """This row's guided estimate of the clean image: float32 [batch, 3, H, W].

        Raises:
            UsageError: the row's history is relative to the state before it (s is not 0), which
                is kept only with ``previews=True``.
        """
        h = self.state.state()[1]
        if not self.slope:
            return h
        if self.before is None:
            raise UsageError("this solver keeps no plain estimate; run with previews=True")
        return h - np.float32(self.slope) * self.before


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Result:
    """Finished pictures.

    Args:
        images: one RGB picture for each prompt.
        x: float32 [batch, 3, H, W], the final state, -1 black to 1 white, not clamped.
        timings: stage to seconds: tokenise, encode, adapt, noise, steps, image; further stages
            are a runtime's own, for example ``capture`` of a CUDA graph.
        seeds: the seed of each picture.
        guidance: the scale used.
        table: name of the table used.
    """

    images: list[Image]
    x: Float32[np.ndarray, "batch 3 height width"]
    timings: Mapping[str, float]
    seeds: tuple[int, ...]
    guidance: float
    table: str


def generate(
    bundle: Bundle,
    runtime: Runtime,
    prompts: Prompt | Sequence[Prompt],
    *,
    seed: int | Sequence[int] = 0,
    table: Table | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    noise: Float32[np.ndarray, "batch 3 height width"] | None = None,
    on_frame: Callable[[Frame], None] | None = None,
    on_row: Callable[[int, int], None] | None = None,
    previews: bool = False,
) -> Result:
    """Paint one picture for each prompt.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        prompts: one prompt or several, each a text or a ``Mix`` of texts, with the same weights
            for all; too long texts are cut with a PromptTruncatedWarning.
        seed: one for all pictures, or one for each. A picture depends on its own seed and
            prompt, never on the batch it is painted in.
        table: solver; None takes the default preset's.
        guidance: scale of classifier-free guidance, 1 is none; None takes the preset's. For a
            few-step student it is omega; None beside a table takes that table's.
        negative: prompt that takes the place of the unconditional branch. Without guidance it
            has no effect, and a SettingIgnoredWarning says so.
        noise: float32 [batch, 3, H, W], unit normal start noise in place of the seed's.
        on_frame: called after each row, which the engine waits for.
        on_row: told the rows that are done and their number in all, perhaps not after every row;
            without ``on_frame`` a runtime may then run all rows without a pause.
        previews: keep what ``Frame.estimate`` needs under every solver.

    Raises:
        UsageError: arguments that do not fit together.
        RuntimeFailure: the engine failed.
    """
    timings: dict[str, float] = {}
    run = _prepare(bundle, runtime, prompts, seed, table, guidance, negative, noise, timings)
    total = len(run.table)
    if on_frame is None:
        _all_rows(run, timings, on_row)
    else:
        for frame in _frames(run, previews):
            timings["steps"] = timings.get("steps", 0.0) + frame.seconds
            on_frame(frame)
            if on_row is not None:
                on_row(frame.index + 1, total)
    with Stopwatch(timings, "image"):
        x = run.state.state()[0]
        images = to_pil(x)
    return Result(
        images=images,
        x=x,
        timings=timings,
        seeds=run.seeds,
        guidance=run.guidance,
        table=run.table.name,
    )


def trajectory(
    bundle: Bundle,
    runtime: Runtime,
    prompts: Prompt | Sequence[Prompt],
    *,
    seed: int | Sequence[int] = 0,
    table: Table | None = None,
    guidance: float | None = None,
    negative: str | None = None,
    noise: Float32[np.ndarray, "batch 3 height width"] | None = None,
    previews: bool = False,
    timings: dict[str, float] | None = None,
) -> Iterator[Frame]:
    """The same as an iterator, one frame a row; leaving the loop cancels the rest.

    Args and Raises: as ``generate``; ``timings`` is filled with the stages before the loop.
    """
    watch = timings if timings is not None else {}
    run = _prepare(bundle, runtime, prompts, seed, table, guidance, negative, noise, watch)
    yield from _frames(run, previews)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Run:
    """A start state on the engine, and all that its rows will be given."""

    state: Trajectory
    table: Table
    guidance: float
    seeds: tuple[int, ...]
    weights: Sequence[np.ndarray]
    noise: Mapping[int, Callable[[], np.ndarray]]


def _prepare(
    bundle: Bundle,
    runtime: Runtime,
    prompts: Prompt | Sequence[Prompt],
    seed: int | Sequence[int],
    table: Table | None,
    guidance: float | None,
    negative: str | None,
    noise: np.ndarray | None,
    timings: dict[str, float],
) -> _Run:
    """Everything before the first row."""
    wanted = [prompts] if isinstance(prompts, str | Mix) else list(prompts)
    if not wanted:
        raise UsageError("no prompt came; give at least one (it may be empty)")
    chosen, scale = _preset(bundle, table, guidance)
    conditions = student_conditions(bundle, chosen, scale, negative)
    shares = common_shares(wanted)
    weights = [guidance_weights(chosen, index, scale) for index in range(len(chosen))]
    guided = any(len(w) > 1 for w in weights)
    if negative is not None and not guided:
        warnings.warn(
            f"the negative prompt has no effect at guidance {scale:g} under table {chosen.name}",
            SettingIgnoredWarning,
            stacklevel=3,
        )
    seeds = _seeds(seed, len(wanted))
    tokens = branch_tokens(
        bundle, runtime, wanted, negative if guided else None, guided, timings, conditions
    )
    with Stopwatch(timings, "noise"):
        x = _start(bundle, seeds, noise)
    return _Run(
        state=start_rows(runtime, x, tokens, chosen.column("t")),
        table=chosen,
        guidance=scale,
        seeds=seeds,
        weights=[branch_weights(shares, row) for row in weights],
        noise={
            int(index): functools.partial(_row_noise, seeds, int(index), x.shape[1:])
            for index in np.flatnonzero(chosen.column("n"))
        },
    )


def _all_rows(
    run: _Run, timings: dict[str, float], on_row: Callable[[int, int], None] | None
) -> None:
    """Run the table with nobody looking at the state before its end."""
    total = len(run.table)
    rows = np.stack([step_row(run.table, index) for index in range(total)])
    began, other = time.perf_counter(), {}
    if isinstance(run.state, RowsTrajectory):
        told = None if on_row is None else lambda done: on_row(done, total)
        other = dict(run.state.run_rows(rows, run.weights, run.noise, told))
    else:
        for index, (row, weights) in enumerate(zip(rows, run.weights, strict=True)):
            fresh = run.noise[index]() if index in run.noise else None
            run.state.step(row, weights, fresh)
            if on_row is not None:
                on_row(index + 1, total)
    timings.update(other)
    timings["steps"] = time.perf_counter() - began - sum(other.values())


def _frames(run: _Run, previews: bool) -> Iterator[Frame]:
    t, slopes = (run.table.column(name) for name in ("t", "s"))
    for index, weights in enumerate(run.weights):
        began = time.perf_counter()
        before = run.state.state()[0] if previews and slopes[index] else None
        fresh = run.noise[index]() if index in run.noise else None
        run.state.step(step_row(run.table, index), weights, fresh)
        yield Frame(
            index=index,
            total=len(run.table),
            t=float(t[index]),
            seconds=time.perf_counter() - began,
            slope=float(slopes[index]),
            state=run.state,
            before=before,
        )


def _preset(bundle: Bundle, table: Table | None, guidance: float | None) -> tuple[Table, float]:
    if table is not None and guidance is not None:
        return table, guidance
    if table is not None and table.is_conditioned:
        return table, float(table.column("omega")[0])
    preset_table, preset_guidance = bundle.preset()
    return table or preset_table, preset_guidance if guidance is None else guidance


def _seeds(seed: int | Sequence[int], count: int) -> tuple[int, ...]:
    seeds = tuple(seed) if isinstance(seed, Iterable) else (seed,) * count
    if len(seeds) != count:
        raise UsageError(f"{len(seeds)} seeds came for {count} prompts; give one, or one for each")
    return seeds


def _start(
    bundle: Bundle, seeds: Sequence[int], noise: np.ndarray | None
) -> Float32[np.ndarray, "batch 3 height width"]:
    size = bundle.config.image_size
    shape = (bundle.config.in_channels, size, size)
    if noise is None:
        noise = batch_noise(seeds, shape)
    if noise.shape != (len(seeds), *shape) or noise.dtype != np.float32:
        raise UsageError(
            f"noise is {noise.dtype} {list(noise.shape)}, but float32 {[len(seeds), *shape]} is "
            "needed: unit normal, one image for each prompt"
        )
    if not np.isfinite(noise).all():
        raise UsageError("noise holds NaN or infinity; give finite unit normal values")
    return noise * np.float32(bundle.manifest.noise.scale)


def _row_noise(
    seeds: Sequence[int], index: int, shape: tuple[int, ...]
) -> Float32[np.ndarray, "batch 3 height width"]:
    return np.stack([standard_noise(seed, shape, stream=index + 1) for seed in seeds])
