"""The memory of one batch on the GPU, at addresses that captured graphs may keep."""

from __future__ import annotations

import math
import weakref
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, UInt8

from minit2i_deploy.runtimes.cuda.driver import CudaDriver
from minit2i_deploy.runtimes.cuda.memory import ALIGNMENT, DeviceMemory, aligned
from minit2i_deploy.solvers.step_inputs import StepInputs

_FLOAT_BYTES: Final = 4
# Graphs of so many tables are held; one of 100 rows has thousands of kernels.
MAX_GRAPHS: Final = 8


class Slots:
    """Rows as the GPU takes them: one slot a row with the row, the weights and a count.

    Args:
        shapes: of the step's inputs where a row has the most branches.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.weights = aligned(math.prod(shapes["row"]) * _FLOAT_BYTES)
        self.count = self.weights + aligned(math.prod(shapes["weights"]) * _FLOAT_BYTES)
        self.num_bytes = self.count + ALIGNMENT

    def pack(
        self, rows: Sequence[Mapping[str, Float32[np.ndarray, "..."]]]
    ) -> UInt8[np.ndarray, "n bytes"]:
        """Bytes of the slots of rows' own inputs; the counts are 1 to n."""
        slots = np.zeros((len(rows), self.num_bytes), np.uint8)
        floats, integers = slots.view(np.float32), slots.view(np.int32)
        begin = self.weights // _FLOAT_BYTES
        for slot, row in zip(floats, rows, strict=True):
            slot[: row["row"].size] = row["row"].ravel()
            slot[begin : begin + row["weights"].size] = row["weights"].ravel()
        integers[:, self.count // _FLOAT_BYTES] = np.arange(1, len(rows) + 1)
        return slots


class Workspace:
    """Two states (x, h) whose roles swap from row to row, inputs, rows, and graphs of all that.

    Args:
        driver: of the GPU.
        inputs: of the first batch; those of the same shapes may follow.

    Raises:
        CudaFailure: the GPU has too little memory; nothing is then held.
    """

    def __init__(self, driver: CudaDriver, inputs: StepInputs) -> None:
        image, tokens = inputs.image_shape, inputs.tokens.shape
        self.image, self.tokens_shape = image, tokens
        # Of the step's inputs, by the number of branches.
        self.shapes = {count: inputs.shapes(count) for count in range(1, tokens[0] + 1)}
        self.slots = Slots(self.shapes[tokens[0]])
        self._driver = driver
        self._memory = DeviceMemory(driver)
        self._graphs: dict[Any, Any] = {}
        # What the graphs run, by the number of branches: alive as long as they are.
        self.contexts: dict[int, Any] = {}
        self.graphs_scratch = 0
        self.owner: weakref.ref[object] | None = None
        self._sent: dict[str, np.ndarray] = {}
        # Of what stays the same in all rows. Fewer branches read the first parts.
        self.fixed: dict[str, int] = {}
        self._num_rows = 0
        self._rows = 0
        what = f"a batch of {image[0]}"
        try:
            state = int(np.prod(image)) * _FLOAT_BYTES
            self.x, self.h = ((self._take(state, what), self._take(state, what)) for _ in "xh")
            for name, array in inputs.fixed(tokens[0]).items():
                self.fixed[name] = self._take(array.nbytes, what)
            self.current = self._take(self.slots.num_bytes, what)
            self.host_state = driver.pinned((2, *image), np.float32)
            self.rows_done = driver.pinned((1,), np.int32)
        except BaseException:
            self._memory.close()
            raise
        self.rows_done[0] = 0

    @property
    def is_free(self) -> bool:
        """Whether nobody uses it."""
        return self.owner is None or self.owner() is None

    def put_fixed(self, inputs: StepInputs, stream: Any) -> None:
        """Copy to the GPU what differs from what is there, tokens by the sequence."""
        for name, array in inputs.fixed(self.tokens_shape[0]).items():
            sent = self._sent.get(name)
            num_pieces = 1
            if name == "tokens":
                num_pieces = self.tokens_shape[0] * self.tokens_shape[1]
            pieces = array.reshape(num_pieces, -1)
            for index, piece in enumerate(pieces):
                # Compared with the bytes last sent: exact, and quicker than a hash.
                if sent is None or not np.array_equal(sent[index], piece):
                    address = self.fixed[name] + index * piece.nbytes
                    self._driver.to_device(address, piece, stream)
            self._sent[name] = pieces.copy()

    def put_rows(self, slots: UInt8[np.ndarray, "n bytes"], stream: Any) -> int:
        """Copy slots to the GPU; the address of the first.

        A longer table than any before takes new memory, and graphs of the old one are dropped.
        """
        if len(slots) > self._num_rows:
            self._driver.wait(stream)
            self.drop_graphs()
            if self._rows:
                self._memory.give(self._rows)
                self._rows = self._num_rows = 0
            self._rows = self._take(slots.nbytes, f"a table of {len(slots)} rows")
            self._num_rows = len(slots)
        self._driver.to_device(self._rows, slots, stream)
        return self._rows

    def put_state(self, x: np.ndarray, h: np.ndarray | None, parity: int, stream: Any) -> None:
        """Queue the copy of a state to the GPU; no h is zero."""
        self._driver.wait(stream)
        self.host_state[0] = x
        self._driver.to_device(self.x[parity], self.host_state[0], stream)
        if h is None:
            self._driver.fill(self.h[parity], 0, self.host_state[1].nbytes, stream)
            return
        self.host_state[1] = h
        self._driver.to_device(self.h[parity], self.host_state[1], stream)

    def spoil(self, parity: int, stream: Any) -> None:
        """Queue the filling of a state with NaN."""
        for address in (self.x[parity], self.h[parity]):
            self._driver.fill(address, 0xFF, self.host_state[0].nbytes, stream)

    def put_noise(self, noise: np.ndarray, parity: int, stream: Any) -> None:
        """Queue the copy of noise into the history slot."""
        self._driver.wait(stream)
        self.host_state[1] = noise
        self._driver.to_device(self.h[parity], self.host_state[1], stream)

    def state(self, parity: int, stream: Any) -> tuple[np.ndarray, np.ndarray]:
        """Copies of x and h, after all that is queued."""
        for host, address in zip(self.host_state, (self.x[parity], self.h[parity]), strict=True):
            self._driver.to_host(host, address, stream)
        self._driver.wait(stream)
        x, h = self.host_state.copy()
        return x, h

    def graph(self, key: Hashable) -> Any:
        """What was captured under a key, or None; it is the last to be dropped from now on."""
        graph = self._graphs.pop(key, None)
        if graph is not None:
            self._graphs[key] = graph
        return graph

    def hold_graph(self, key: Hashable, graph: Any) -> None:
        """Hold a graph, and drop the one that was not used for longest where there are too many.

        Nothing of the others may be queued.
        """
        self._graphs[key] = graph
        while len(self._graphs) > MAX_GRAPHS:
            oldest = self._graphs.pop(next(iter(self._graphs)))
            self._driver.release("cudaGraphExecDestroy", oldest)

    def drop_graphs(self) -> None:
        """Forget what was captured; nothing of it may be queued."""
        for graph in self._graphs.values():
            self._driver.release("cudaGraphExecDestroy", graph)
        self._graphs.clear()

    def close(self) -> None:
        """Give everything back; nothing queued may still use it."""
        self.drop_graphs()
        self.contexts.clear()
        for array in (self.host_state, self.rows_done):
            self._driver.unpin(array)
        self._memory.close()

    def _take(self, num_bytes: int, what: str) -> int:
        return self._memory.take(num_bytes, what)
