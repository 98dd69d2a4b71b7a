"""The state of one batch on the GPU, and the workspaces that batches take turns in."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.protocol import FreshNoise
from minit2i_deploy.runtimes.cuda.driver import CudaFailure
from minit2i_deploy.runtimes.guard import Guard, guarded
from minit2i_deploy.runtimes.tensorrt.rows import OnRow, RowQueue
from minit2i_deploy.runtimes.tensorrt.workspace import Workspace
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.step_inputs import StepInputs

# Sizes of batches whose buffers and graphs stay for the next image.
_MAX_WORKSPACES: Final = 4


class Workspaces:
    """Buffers by size, lent to one trajectory at a time."""

    def __init__(self, queue: RowQueue) -> None:
        self._queue = queue
        self._spaces: list[Workspace] = []

    def lend(self, inputs: StepInputs) -> Workspace:
        """A free workspace of that size, with the graphs that it has, or a fresh one.

        Raises:
            CudaFailure: the GPU has too little memory.
        """
        # What a trajectory that was left behind has queued may still run.
        self._queue.gpu.driver.wait(self._queue.gpu.stream)
        for space in self._spaces:
            shapes = (inputs.image_shape, inputs.tokens.shape)
            if space.is_free and (space.image, space.tokens_shape) == shapes:
                self._spaces.remove(space)
                self._spaces.append(space)
                return space
        self._shrink(_MAX_WORKSPACES - 1)
        try:
            space = Workspace(self._queue.gpu.driver, inputs)
        except CudaFailure:
            self._shrink(0)
            space = Workspace(self._queue.gpu.driver, inputs)
        self._spaces.append(space)
        return space

    def close(self) -> None:
        """Give all memory back, lent or not."""
        for space in self._spaces:
            space.close()
        self._spaces.clear()

    def _shrink(self, num_free: int) -> None:
        """Close the free ones that were used longest ago, down to so many."""
        free = [space for space in self._spaces if space.is_free]
        for space in free[: max(0, len(free) - num_free)]:
            self._spaces.remove(space)
            space.close()


class TensorRtTrajectory:
    """State of one batch; it waits for each ``step``, and once for all rows of ``run_rows``.

    Args:
        queue: of the step engine.
        space: lent to this trajectory.
        x: float32 [batch, 3, H, W].
        inputs: of the step besides the state.
        guard: of the runtime.
    """

    def __init__(
        self,
        queue: RowQueue,
        space: Workspace,
        x: Float32[np.ndarray, "batch 3 height width"],
        inputs: StepInputs,
        guard: Guard,
    ) -> None:
        self._queue, self._space, self._guard = queue, space, guard
        self._stream = queue.gpu.stream
        self._inputs = inputs
        self._parity = self._done = 0
        space.owner = weakref.ref(self)
        space.put_fixed(inputs, self._stream)
        space.put_state(x, None, 0, self._stream)

    @guarded
    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """Advance by one row; arguments as in ``protocol.Trajectory``."""
        driver, space = self._queue.gpu.driver, self._space
        self._queue.gpu.use()
        slots = space.slots.pack([self._inputs.of_row(row)])
        driver.to_device(space.current, slots, self._stream)
        if noise is not None:
            space.put_noise(noise, self._parity, self._stream)
        self._run([len(row.weights)], space.current, "step", None)

    @guarded
    def run_rows(
        self,
        rows: Sequence[Row],
        fresh_noise: FreshNoise,
        on_row: OnRow | None = None,
    ) -> Mapping[str, float]:
        """Advance by all rows; arguments as in ``protocol.RowsTrajectory``."""
        if on_row is not None:
            on_row = self._guard.outside_shares(on_row)
        self._queue.gpu.use()
        slots = self._space.slots.pack([self._inputs.of_row(row) for row in rows])
        first = self._space.put_rows(slots, self._stream)
        spent = 0.0
        for begin, end in _stretches(rows):
            noise = fresh_noise(rows[begin])
            if noise is not None:
                self._space.put_noise(noise, self._parity, self._stream)
            counts = [len(row.weights) for row in rows[begin:end]]
            # Stretches of a table with noise are short; a graph for each would not pay.
            level = None if end - begin == len(rows) else "step"
            slot = first + begin * self._space.slots.num_bytes
            spent += self._run(counts, slot, level, on_row)
        return {"capture": spent} if spent else {}

    @guarded
    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h."""
        self._queue.gpu.use()
        return self._space.state(self._parity, self._stream)

    def _run(
        self, branches: Sequence[int], slot: int, level: str | None, on_row: OnRow | None
    ) -> float:
        spent = self._queue.run(
            self._space,
            self._parity,
            branches,
            slot,
            done=self._done,
            graphs=level,
            on_row=on_row,
        )
        self._parity = (self._parity + len(branches)) % 2
        self._done += len(branches)
        return spent


def _stretches(rows: Sequence[Row]) -> list[tuple[int, int]]:
    """Begin and end of runs of rows that need nothing from the host but before the first."""
    begins = [place for place, row in enumerate(rows) if place == 0 or row.draws_noise]
    return list(zip(begins, [*begins[1:], len(rows)], strict=True))
