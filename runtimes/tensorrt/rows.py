"""Rows on the GPU: queued one by one, from one CUDA graph a row, or from one for all rows.

A graph is trusted only after it gave what the rows queued one by one gave, from the same state.
What is refused falls back one level, with a warning, and stays there while the runtime is open.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import CudaGraphWarning, RuntimeFailure
from minit2i_deploy.runtimes.cuda.driver import CudaFailure
from minit2i_deploy.runtimes.tensorrt.engine import Context, Engine, Gpu
from minit2i_deploy.runtimes.tensorrt.workspace import Workspace

# From the most that is captured at once to nothing.
GRAPHS: Final = ("trajectory", "step", "none")
# Of the largest value. Kernels that add in the order threads come in are not bit for bit the same
# from run to run; a graph that replays stale memory is off by far more.
REPLAY_TOLERANCE: Final = 1e-3
_LOOK_S: Final = 5e-4
MAX_CONTEXTS: Final = 24

OnRow = Callable[[int], None]


class RowQueue:
    """Queues rows of one engine and waits for them.

    Args:
        gpu: that runs them.
        engine: of the step graph.
        graphs: one of GRAPHS, the most that is to be captured.
        debug: wait after each row and capture nothing.
        path: of the bundle, for errors.
    """

    def __init__(self, gpu: Gpu, engine: Engine, graphs: str, debug: bool, path: str) -> None:
        self.gpu, self.engine = gpu, engine
        self.level = "none" if debug else graphs
        self.reasons: dict[str, str] = {}
        self.last_used = "none"
        self.replay_error: float | None = None
        self._debug, self._path = debug, path
        # By the number of branches and the images' shape; the last one used is last.
        self._contexts: dict[tuple[int, tuple[int, ...]], Context] = {}

    def run(
        self,
        space: Workspace,
        parity: int,
        branches: Sequence[int],
        first_slot: int,
        *,
        done: int,
        graphs: str | None = None,
        on_row: OnRow | None = None,
    ) -> float:
        """Run rows whose slots lie one behind the other, and wait for them.

        Args:
            space: buffers, with the state at ``parity``.
            parity: which of the two states is read first.
            branches: number of weights of each row.
            first_slot: address of the first row's slot.
            done: rows before these, for errors and progress.
            graphs: most to be captured; None is ``level``.
            on_row: called with the number of rows that are done.

        Returns:
            seconds spent on capturing and checking.

        Raises:
            RuntimeFailure: the engine failed; the row is named.
        """
        level = max(graphs or self.level, self.level, key=GRAPHS.index)
        space.rows_done[0] = 0
        self.last_used = level
        try:
            if level == "trajectory":
                return self._all_at_once(space, parity, branches, first_slot, done, on_row)
            return self._one_by_one(space, parity, branches, first_slot, done, on_row, level)
        except CudaFailure as error:
            row = done + int(space.rows_done[0])
            raise self._failure(error, row) from error

    def _all_at_once(
        self,
        space: Workspace,
        parity: int,
        branches: Sequence[int],
        first: int,
        done: int,
        on_row: OnRow | None,
    ) -> float:
        contexts = self._ready(space, branches)
        key = ("trajectory", tuple(branches), parity)

        def queue() -> None:
            for index in range(len(branches)):
                slot = first + index * space.slots.num_bytes
                self._queue(contexts[index], space, (parity + index) % 2, slot)

        graph = space.graph(key)
        if graph is not None:
            self.gpu.driver.launch(graph, self.gpu.stream)
            self._wait(space, done, len(branches), on_row)
            return 0.0
        end = (parity + len(branches)) % 2
        return self._first_time(
            space,
            key,
            queue,
            functools.partial(self._wait, space, done, len(branches), on_row),
            (parity, end),
        )

    def _one_by_one(
        self,
        space: Workspace,
        parity: int,
        branches: Sequence[int],
        first: int,
        done: int,
        on_row: OnRow | None,
        level: str,
    ) -> float:
        contexts = self._ready(space, branches)
        driver, stream = self.gpu.driver, self.gpu.stream
        spent = 0.0
        for index, context in enumerate(contexts):
            slot, now = first + index * space.slots.num_bytes, (parity + index) % 2
            if level != "step":
                self._queue(context, space, now, slot)
                if self._debug:
                    driver.wait(stream)
                continue
            if slot != space.current:
                driver.within(space.current, slot, space.slots.num_bytes, stream)
            key = ("step", branches[index], now)
            graph = space.graph(key)
            if graph is not None:
                driver.launch(graph, stream)
                continue
            spent += self._first_time(
                space,
                key,
                functools.partial(self._queue, context, space, now, space.current),
                functools.partial(driver.wait, stream),
                (now, 1 - now),
            )
            # What was refused just now is not tried again in the rows that follow.
            level = max(level, self.level, key=GRAPHS.index)
        self._wait(space, done, len(branches), on_row)
        return spent

    def _ready(self, space: Workspace, branches: Sequence[int]) -> list[Context]:
        """A context for each row; their shapes never change again, as graphs need it."""
        for count in sorted(set(branches), reverse=True):
            key = count, space.image
            context = space.contexts.get(count) or self._contexts.pop(key, None)
            if context is None:
                context = Context(self.engine, specialize=True)
                context.set_shapes(space.shapes[count])
            self._contexts.pop(key, None)
            self._contexts[key] = space.contexts[count] = context
        # Where sizes are free there are too many to hold them all; workspaces hold their own.
        while len(self._contexts) > MAX_CONTEXTS:
            del self._contexts[next(iter(self._contexts))]
        if space.graphs_scratch != self.gpu.scratch.version:
            # Graphs hold the address of the scratch memory that they were captured with.
            space.drop_graphs()
            space.graphs_scratch = self.gpu.scratch.version
        return [space.contexts[count] for count in branches]

    def _queue(self, context: Context, space: Workspace, now: int, slot: int) -> None:
        then = 1 - now
        states = {"x": space.x[now], "h": space.h[now]}
        results = {"x_next": space.x[then], "h_next": space.h[then]}
        row_inputs = {"weights": slot + space.slots.weights, "row": slot}
        for name, address in (states | space.fixed | row_inputs | results).items():
            context.bind(name, address)
        context.run()
        # Four bytes to pinned memory: readable while rows run, and after the GPU has failed.
        self.gpu.driver.to_host(space.rows_done, slot + space.slots.count, self.gpu.stream)

    def _first_time(
        self,
        space: Workspace,
        key: tuple[Any, ...],
        queue: Callable[[], None],
        wait: Callable[[], None],
        parities: tuple[int, int],
    ) -> float:
        """Run without a graph, then capture the same and compare; the result stands either way."""
        driver, stream = self.gpu.driver, self.gpu.stream
        began = time.perf_counter()
        before = space.state(parities[0], stream)
        spent = time.perf_counter() - began
        queue()
        wait()
        began = time.perf_counter()
        expected = space.state(parities[1], stream)
        rows_done = int(space.rows_done[0])
        graph, reason = self._capture(queue)
        if graph is not None:
            # A replay that does nothing would else find the right values there.
            space.spoil(1 - parities[0], stream)
            space.put_state(*before, parities[0], stream)
            driver.launch(graph, stream)
            error = _relative_error(space.state(parities[1], stream), expected)
            self.replay_error = error
            if not error <= REPLAY_TOLERANCE:
                reason = f"its replay is off by {error:.2g} of the largest value"
                driver.release("cudaGraphExecDestroy", graph)
                graph = None
            space.put_state(*expected, parities[1], stream)
            driver.wait(stream)
            space.rows_done[0] = rows_done
        if graph is None:
            self._fall_back(key[0], reason)
        else:
            space.hold_graph(key, graph)
        return spent + time.perf_counter() - began

    def _capture(self, queue: Callable[[], None]) -> tuple[Any, str]:
        driver, stream = self.gpu.driver, self.gpu.stream
        for context in self._contexts.values():
            capturable = getattr(context.native, "is_stream_capturable", None)
            if capturable is not None and not capturable(int(stream)):
                return None, "the engine says that it cannot be captured"
        try:
            driver.begin_capture(stream)
        except CudaFailure as error:
            driver.forget_error()
            return None, str(error)
        try:
            queue()
        except RuntimeFailure as error:
            driver.abandon_capture(stream)
            return None, str(error)
        try:
            return driver.end_capture(stream), ""
        except CudaFailure as error:
            driver.forget_error()
            return None, str(error)

    def _fall_back(self, level: str, reason: str) -> None:
        self.level = GRAPHS[GRAPHS.index(level) + 1]
        self.reasons[level] = reason
        instead = "one graph a row" if self.level == "step" else "no graph"
        warnings.warn(
            f"one CUDA graph {'for all rows' if level == 'trajectory' else 'a row'} is not used: "
            f"{reason}; {instead} is used from here on",
            CudaGraphWarning,
            stacklevel=2,
        )

    def _wait(self, space: Workspace, done: int, total: int, on_row: OnRow | None) -> None:
        driver, stream = self.gpu.driver, self.gpu.stream
        if on_row is not None:
            reported = 0
            while not driver.is_done(stream):
                count = int(space.rows_done[0])
                if reported < count < total:
                    on_row(done + count)
                    reported = count
                time.sleep(_LOOK_S)
        driver.wait(stream)
        if on_row is not None:
            on_row(done + total)

    def _failure(self, error: CudaFailure, row: int) -> RuntimeFailure:
        if error.code == "cudaErrorMemoryAllocation":
            return error
        return RuntimeFailure(
            f"{self._path}: {self.gpu.library.name} failed in transformer at row {row}: {error}"
        )


def _relative_error(
    actual: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]
) -> float:
    """Largest difference over the largest value, NaN beside the same NaN being none."""
    if all(a.tobytes() == b.tobytes() for a, b in zip(actual, expected, strict=True)):
        return 0.0
    pairs = list(zip(actual, expected, strict=True))
    scale = max(float(np.abs(value).max()) for value in expected)
    worst = max(float(np.abs(a - b).max()) for a, b in pairs)
    return worst / scale if scale else float("inf")
