"""From prompts to images. Read this file first: ``frames`` is the main path, in order.

tokenize -> encode (real tokens only) -> adapt (once) -> noise -> for each row: step -> image

request.py fills in defaults and prepares tokens and noise for the first row.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.editing.edit import Edit
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_formats import save_image
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.io.images import to_pil
from minit2i_deploy.protocol import RowsTrajectory, Runtime, Trajectory
from minit2i_deploy.request import Request
from minit2i_deploy.request_checks import as_prompts
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.conditioning import Stopwatch
from minit2i_deploy.text.prompts import Prompt, as_mix

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The state after one row.

    The state moves on with the loop: read a frame before the next one is yielded.

    Args:
        row: the row that was run.
        total: number of rows.
        seconds: spent on the row; on all rows where the runtime ran them at once.
        state: on the engine's device.
        before: float32 [batch, 3, H, W], x before the row, where ``estimate`` needs it.
    """

    row: Row
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
        """A copy of the state: float32 [batch, 3, H, W]; after the last row, the images."""
        return self.state.state()[0]

    def estimate(self) -> Float32[np.ndarray, "batch 3 height width"]:
        """This row's guided estimate of the clean image: float32 [batch, 3, H, W].

        Raises:
            UsageError: the row's history is relative to the state before it (s is not 0), which
                is stored with ``previews=True`` only.
        """
        h = self.state.state()[1]
        # h' = y + s x, so without s the history is the estimate itself.
        if not self.row.slope:
            return h
        if self.before is None:
            raise UsageError("the estimate of this solver needs previews=True")
        return h - np.float32(self.row.slope) * self.before


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Result:
    """Finished images.

    Args:
        images: one RGB image for each prompt.
        x: float32 [batch, 3, H, W], the final state, -1 black to 1 white, not clamped.
        timings: stage to seconds: tokenise, encode, adapt, noise, steps, image; further stages
            are a runtime's own, for example ``capture`` of a CUDA graph.
        seeds: the seed of each image.
        guidance: scale of classifier-free guidance that was used.
        table: name of the table that was used.
        runtime: name of the runtime.
        bundle: that was run.
        request: prompts, table, noise and the rest, with nothing left open.
    """

    images: list[Image] = field(repr=False)
    x: Float32[np.ndarray, "batch 3 height width"] = field(repr=False)
    timings: Mapping[str, float]
    seeds: tuple[int, ...]
    guidance: float
    table: str
    runtime: str
    bundle: Bundle = field(repr=False)
    request: Request = field(repr=False)

    def record(self, index: int = 0) -> Record:
        """What made an image, as ``minit2i generate --from`` reads it.

        Args:
            index: of the image.

        Raises:
            UsageError: no such image.
        """
        if not 0 <= index < len(self.images):
            raise UsageError(f"index must be 0 to {len(self.images) - 1}, got {index}")
        request = self.request
        return Record.of(
            self.bundle,
            request.base_table,
            prompt=as_mix(request.prompts[index]),
            seed=self.seeds[index],
            guidance=self.guidance,
            negative=request.negative,
            noise=None if request.noise is None else request.noise[index],
            runtime=self.runtime,
            edit=request.edit.record(index),
            size=self.bundle.size,
        )

    def save(self, path: str | os.PathLike[str], index: int = 0) -> None:
        """Write an image with its record, so that ``minit2i generate --from`` makes it again.

        Args:
            path: .png, .jpg or .webp, replaced if it exists.
            index: of the image.

        Raises:
            UsageError: no such image, another suffix, or a path that cannot be written.
        """
        fields = self.record(index).fields(num_rows=len(self.request.base_table))
        save_image(self.images[index], path, fields)


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
    init_image: Image | np.ndarray | None = None,
    strength: float | None = None,
    known: Image | np.ndarray | None = None,
    mask: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
) -> Result:
    """Generate one image for each prompt.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        prompts: one prompt or several, each a text or a ``Mix`` of texts, with the same weights
            for all; a text that is too long is cut with a PromptTruncatedWarning.
        seed: one for all images, or one for each; an image never depends on its batch.
        table: solver; None takes the default preset's.
        guidance: scale of classifier-free guidance, 1 is none; None takes the preset's. For a
            few-step student it is omega; None beside a table takes that table's.
        negative: prompt of the unconditional branch; without guidance, a SettingIgnoredWarning.
        noise: float32 [batch, 3, H, W], unit normal start noise in place of the seed's.
        on_frame: called after each row; the engine waits for it.
        on_row: called with the numbers of finished rows and of all rows, perhaps not every time.
        previews: store what ``Frame.estimate`` needs under every solver.
        init_image, strength, known, mask: an edit, as ``Edit.of`` takes them.
        size: width and height in pixels, multiples of the patch, where the bundle's are free
            (``minit2i export --sides``); None is the bundle's own.

    Raises:
        UsageError: arguments that do not fit together.
        RuntimeFailure: the engine failed.
    """
    count, bundle = len(as_prompts(prompts)), bundle.at_size(size)
    edit = Edit.of(bundle, count, init_image=init_image, strength=strength, known=known, mask=mask)
    request = Request.of(
        bundle, prompts, seed=seed, table=table, guidance=guidance, negative=negative, noise=noise,
        edit=edit,
    )  # fmt: skip
    timings: dict[str, float] = {}
    every_row = on_frame is not None
    for frame in frames(
        bundle, runtime, request, timings, previews=previews, every_row=every_row, on_row=on_row
    ):
        timings["steps"] = timings.get("steps", 0.0) + frame.seconds
        if on_frame is not None:
            on_frame(frame)
    return _result(bundle, runtime, request, frame.x(), timings)


def _result(
    bundle: Bundle, runtime: Runtime, request: Request, x: np.ndarray, timings: dict[str, float]
) -> Result:
    with Stopwatch(timings, "image"):
        x = request.edit.finish(x)
        images = to_pil(x)
    return Result(
        images=images,
        x=x,
        timings=timings,
        seeds=request.seeds,
        guidance=request.guidance,
        table=request.table.name,
        runtime=runtime.name,
        bundle=bundle,
        request=request,
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
    init_image: Image | np.ndarray | None = None,
    strength: float | None = None,
    known: Image | np.ndarray | None = None,
    mask: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Frame]:
    """Generate as an iterator, one frame a row; leaving the loop cancels the rest.

    The last frame's state of an edit may differ from the known pixels by rounding; ``generate``
    sets them.

    Args and Raises: as ``generate``; ``timings`` receives the stages before the loop.
    """
    count, bundle = len(as_prompts(prompts)), bundle.at_size(size)
    edit = Edit.of(bundle, count, init_image=init_image, strength=strength, known=known, mask=mask)
    request = Request.of(
        bundle, prompts, seed=seed, table=table, guidance=guidance, negative=negative, noise=noise,
        edit=edit,
    )  # fmt: skip
    yield from frames(bundle, runtime, request, timings, previews=previews)


def frames(
    bundle: Bundle,
    runtime: Runtime,
    request: Request,
    timings: dict[str, float] | None = None,
    *,
    previews: bool = False,
    every_row: bool = True,
    on_row: Callable[[int, int], None] | None = None,
) -> Iterator[Frame]:
    """The main path, for a request that may be generated on several runtimes.

    Args:
        bundle: what to run.
        runtime: an open runtime of that bundle.
        request: made for that bundle, or for one of the same shape.
        timings: receives the seconds of the stages before the first row, and a runtime's own.
        previews: as in ``generate``.
        every_row: yield a frame after each row. Without it, a runtime that takes all rows at once
            gets them so, and only the last frame is yielded.
        on_row: as in ``generate``; called after the frame has been looked at.

    Raises:
        UsageError: the request's noise does not fit the bundle.
        RuntimeFailure: the engine failed.
    """
    # The line to name called generate or trajectory, which called this.
    request.warn_ignored_negative(stacklevel=3)
    timings = {} if timings is None else timings
    # Tokenize, encode and adapt: once, because no row changes what depends on the prompt.
    tokens = request.tokens(bundle, runtime, timings)
    with Stopwatch(timings, "noise"):
        x = request.start(bundle)
    # Runtimes that cannot edit take two arguments.
    known = () if request.edit.known is None else (request.edit.known,)
    state = runtime.start(x, tokens, *known)
    total = len(request.rows)
    fresh_noise = functools.partial(request.fresh_noise, bundle)
    # A stop after each row would make a GPU wait for the host.
    if isinstance(state, RowsTrajectory) and not every_row:
        began = time.perf_counter()
        on_done = None if on_row is None else lambda done: on_row(done, total)
        other_s = state.run_rows(request.rows, fresh_noise, on_done)
        seconds = time.perf_counter() - began - sum(other_s.values())
        timings.update(other_s)
        yield Frame(row=request.rows[-1], total=total, seconds=seconds, state=state)
        return
    for row in request.rows:
        began = time.perf_counter()
        before = state.state()[0] if previews and row.slope else None
        state.step(row, fresh_noise(row))
        seconds = time.perf_counter() - began
        yield Frame(row=row, total=total, seconds=seconds, state=state, before=before)
        # Only now, so that progress is never ahead of the frames.
        if on_row is not None:
            on_row(row.index + 1, total)
