"""From prompts to pictures. Read this file first: it is the whole main path, in order.

tokenise -> encode (real tokens only) -> adapt (once) -> noise -> for each row: step -> image

What the arguments leave open and the way to the first row are in request.py.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.images import to_pil
from minit2i_deploy.protocol import FreshNoise, RowsTrajectory, Runtime, Trajectory
from minit2i_deploy.request import Request
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.conditioning import Stopwatch
from minit2i_deploy.text.prompts import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image


class SettingIgnoredWarning(UserWarning):
    """A setting that has no effect beside the others; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The run after one row; ``total`` is the number of rows.

    The state moves on with the loop: take what is wanted of a frame before the next one.
    """

    row: Row = field(repr=False)
    total: int
    seconds: float
    state: Trajectory = field(repr=False)
    before: np.ndarray | None = field(repr=False, default=None)

    @property
    def index(self) -> int:
        """Place of the row in the table, from 0."""
        return self.row.index

    @property
    def t(self) -> float:
        """Time of the row, 0 noise to 1 data."""
        return self.row.t

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
        if not self.row.slope:
            return h
        if self.before is None:
            raise UsageError("this solver keeps no plain estimate; run with previews=True")
        return h - np.float32(self.row.slope) * self.before


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
    request = Request.of(
        bundle, prompts, seed=seed, table=table, guidance=guidance, negative=negative, noise=noise
    )
    timings: dict[str, float] = {}
    run = _begin(bundle, runtime, request, timings)
    if on_frame is None:
        _all_rows(run, timings, on_row)
    else:
        _shown_rows(run, timings, on_row, on_frame, previews)
    with Stopwatch(timings, "image"):
        x = run.state.state()[0]
        images = to_pil(x)
    return Result(
        images=images,
        x=x,
        timings=timings,
        seeds=request.seeds,
        guidance=request.guidance,
        table=request.table.name,
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
    request = Request.of(
        bundle, prompts, seed=seed, table=table, guidance=guidance, negative=negative, noise=noise
    )
    watch = timings if timings is not None else {}
    yield from _frames(_begin(bundle, runtime, request, watch), previews)


def frames(bundle: Bundle, runtime: Runtime, request: Request) -> Iterator[Frame]:
    """``trajectory`` of a request that is there already, for painting it on several runtimes.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        request: made for that bundle, or for one of the same shape.

    Raises:
        UsageError: its noise does not fit the bundle.
        RuntimeFailure: the engine failed.
    """
    yield from _frames(_begin(bundle, runtime, request, {}), previews=False)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Run:
    """A start state on the engine, and the rows that it will be given."""

    state: Trajectory
    rows: Sequence[Row]
    fresh_noise: FreshNoise


def _begin(bundle: Bundle, runtime: Runtime, request: Request, timings: dict[str, float]) -> _Run:
    """Everything before the first row."""
    if request.negative is not None and not request.guided:
        warnings.warn(
            f"the negative prompt has no effect at guidance {request.guidance:g} under table "
            f"{request.table.name}",
            SettingIgnoredWarning,
            stacklevel=3,
        )
    tokens = request.tokens(bundle, runtime, timings)
    with Stopwatch(timings, "noise"):
        x = request.start(bundle)
    return _Run(
        state=runtime.start(x, tokens),
        rows=request.rows,
        fresh_noise=functools.partial(request.fresh_noise, bundle),
    )


def _all_rows(
    run: _Run, timings: dict[str, float], on_row: Callable[[int, int], None] | None
) -> None:
    """Run the table with nobody looking at the state before its end."""
    total = len(run.rows)
    began, other = time.perf_counter(), {}
    if isinstance(run.state, RowsTrajectory):
        told = None if on_row is None else lambda done: on_row(done, total)
        other = dict(run.state.run_rows(run.rows, run.fresh_noise, told))
    else:
        for row in run.rows:
            run.state.step(row, run.fresh_noise(row))
            if on_row is not None:
                on_row(row.index + 1, total)
    timings.update(other)
    timings["steps"] = time.perf_counter() - began - sum(other.values())


def _shown_rows(
    run: _Run,
    timings: dict[str, float],
    on_row: Callable[[int, int], None] | None,
    on_frame: Callable[[Frame], None],
    previews: bool,
) -> None:
    """Run the table row by row and show each state."""
    timings["steps"] = 0.0
    for frame in _frames(run, previews):
        timings["steps"] += frame.seconds
        on_frame(frame)
        if on_row is not None:
            on_row(frame.index + 1, frame.total)


def _frames(run: _Run, previews: bool) -> Iterator[Frame]:
    for row in run.rows:
        began = time.perf_counter()
        before = run.state.state()[0] if previews and row.slope else None
        run.state.step(row, run.fresh_noise(row))
        yield Frame(
            row=row,
            total=len(run.rows),
            seconds=time.perf_counter() - began,
            state=run.state,
            before=before,
        )
