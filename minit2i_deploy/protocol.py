"""The protocol between the core and a runtime: what an engine must do to generate and embed.

A runtime knows no solver, no guidance scale and no prompt. It gets arrays, and rows of scalars and
branch weights.

Threads: calls from several threads on one runtime are taken one after another, and each gets its
own result; a trajectory is one thread's. The runtimes tensorrt and tensorrt-rtx refuse every thread
but the one that opened them, because CUDA's device and TensorRT's contexts are a thread's. Fork: a
runtime is refused in a fork of the process that opened it, because engine threads do not follow;
each process opens its own. (``runtimes.guard`` is both rules.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.row import Known, Row
from minit2i_deploy.solvers.step_inputs import ImageStep

# More than any one machine has cores. An engine starts as many threads as it is asked for, and far
# too many keep the system busy for hours.
MAX_THREADS: Final = 4096
# A row's fresh unit noise, or None where the row draws none.
FreshNoise = Callable[[Row], Float32[np.ndarray, "batch 3 height width"] | None]


@runtime_checkable
class Trajectory(Protocol):
    """The state (x, h) of one batch on the engine's device, advanced row by row."""

    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row.

        Args:
            row: its values and weights are float32.
            noise: float32 [batch, 3, H, W] that takes the place of the history slot: unit noise
                in a row that draws noise, or a history to continue from.

        Raises:
            RuntimeFailure: the engine failed.
        """

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h, float32 [batch, 3, H, W]."""


@runtime_checkable
class RowsTrajectory(Trajectory, Protocol):
    """A trajectory that can run all its rows at once, where no state between them is needed."""

    def run_rows(
        self,
        rows: Sequence[Row],
        fresh_noise: FreshNoise,
        on_row: Callable[[int], None] | None = None,
    ) -> Mapping[str, float]:
        """Advance by all rows; the state is what as many calls of ``step`` leave.

        Args:
            rows: as ``step`` takes them.
            fresh_noise: called with each row in turn, for its unit noise or None.
            on_row: called with the number of finished rows, from time to time and at the end.

        Returns:
            seconds spent on other things than the rows, for example on capturing a CUDA graph.

        Raises:
            RuntimeFailure: the engine failed.
        """


@runtime_checkable
class Runtime(Protocol):
    """The three graphs of a bundle on one engine."""

    name: str

    def encode(
        self,
        input_ids: Int64[np.ndarray, "n tokens"],
        attention_mask: Int64[np.ndarray, "n tokens"],
    ) -> Float32[np.ndarray, "n tokens width"]:
        """Run the text encoder: float32 [n, tokens, width].

        Args:
            input_ids: int64 [n, tokens], the pad token's id at padding.
            attention_mask: int64 [n, tokens], 1 at real tokens.
        """

    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """Run the text adapter: float32 [n, tokens of the denoiser, hidden].

        Args:
            context: float32 [n, prompt length, width], the text encoder's output.
            mask: int64 [n, prompt length], 1 at real tokens.
            conditions: float32 [n, 4], ``table.CONDITION_COLUMNS``; for a few-step student only.

        Raises:
            UsageError: conditions for a base model, or none for a student.
        """

    def start(
        self,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
        known: Known | None = None,
    ) -> Trajectory:
        """Put a start state and the branches' tokens on the device; h is zero.

        Args:
            x: float32 [batch, 3, H, W], noise of the bundle's deviation.
            tokens: float32 [branches, batch, adapted tokens, hidden], of ``adapt``.
            known: pixels that every row's estimate is set to; a runtime that cannot edit need not
                take it.

        Raises:
            UsageError: known pixels, and a bundle of format version 1.
        """

    def close(self) -> None:
        """Free the engine's memory; further calls fail."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@runtime_checkable
class BatchRuntime(Runtime, Protocol):
    """A runtime that steps images which come and go, each at a row of its own."""

    def step_batch(
        self, images: Sequence[ImageStep]
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Advance images by a row of their own each, on arrays of the host.

        An image's result is that of a trajectory of its own, to the rounding of another batch
        size. In bundles of format version 2 it is one call of the step graph; in version 1 the
        graph gives the estimates, and guidance and update are numpy's.

        Args:
            images: state, tokens and row of each; at least one.

        Returns:
            the next x and h, float32 [batch, 3, H, W], in the order of the images.

        Raises:
            UsageError: no images, or known pixels and a bundle of format version 1.
            RuntimeFailure: the engine failed.
        """


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no machine has.

    Raises:
        UsageError: it is not in 0..MAX_THREADS.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise UsageError(
            f"threads must be 0 (the engine's choice) to {MAX_THREADS}, got {threads}; more than "
            "the machine's cores gains nothing"
        )
