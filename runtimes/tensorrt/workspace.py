"""The memory of one batch on the GPU, at addresses that captured graphs may keep."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, UInt8

from minit2i_deploy.runtimes.cuda.driver import CudaDriver
from minit2i_deploy.runtimes.cuda.memory import ALIGNMENT, DeviceMemory, aligned
from minit2i_deploy.solvers.row import GRAPH_COLUMNS, Row

_FLOAT_BYTES: Final = 4


class Slots:
    """Rows as the GPU takes them: one slot a row with the row, the weights and a count.

    Args:
        branches: the most weights a row has.
    """

    def __init__(self, branches: int) -> None:
        self.weights = ALIGNMENT
        self.count = self.weights + aligned(branches * _FLOAT_BYTES)
        self.num_bytes = self.count + ALIGNMENT

    def pack(self, rows: Sequence[Row]) -> UInt8[np.ndarray, "n bytes"]:
        """Bytes of the slots; the counts are 1 to n."""
        slots = np.zeros((len(rows), self.num_bytes), np.uint8)
        floats, integers = slots.view(np.float32), slots.view(np.int32)
        begin = self.weights // _FLOAT_BYTES
        for slot, row in zip(floats, rows, strict=True):
            slot[: len(GRAPH_COLUMNS)] = row.values
            slot[begin : begin + len(row.weights)] = row.weights
        integers[:, self.count // _FLOAT_BYTES] = np.arange(1, len(rows) + 1)
        return slots


class Workspace:
    """Two states (x, h) whose roles swap from row to row, tokens, rows, and graphs of all that.

    Args:
        driver: of the GPU.
        image: [batch, 3, H, W].
        tokens: [branches, batch, adapted tokens, hidden].

    Raises:
        CudaFailure: the GPU has too little memory; nothing is then held.
    """

    def __init__(self, driver: CudaDriver, image: tuple[int, ...], tokens: tuple[int, ...]) -> None:
        self.image, self.tokens_shape = image, tokens
        self.slots = Slots(tokens[0])
        self._driver = driver
        self._memory = DeviceMemory(driver)
        self.graphs: dict[Any, Any] = {}
        self.graphs_scratch = 0
        self.owner: weakref.ref[object] | None = None
        self._known: np.ndarray | None = None
        self._num_rows = 0
        self._rows = 0
        what = f"a batch of {image[0]}"
        try:
            state = int(np.prod(image)) * _FLOAT_BYTES
            self.x, self.h = ((self._take(state, what), self._take(state, what)) for _ in "xh")
            self.tokens = self._take(int(np.prod(tokens)) * _FLOAT_BYTES, what)
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

    def put_tokens(self, tokens: Float32[np.ndarray, "branches batch n d"], stream: Any) -> None:
        """Copy those tokens to the GPU that differ from what is there."""
        known = self._known
        for place in np.ndindex(tokens.shape[:2]):
            # Compared with the bytes last sent: exact, and quicker than a hash.
            if known is None or not np.array_equal(known[place], tokens[place]):
                piece = np.ascontiguousarray(tokens[place])
                index = int(np.ravel_multi_index(place, tokens.shape[:2]))
                self._driver.to_device(self.tokens + index * piece.nbytes, piece, stream)
        self._known = tokens.copy()

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

    def drop_graphs(self) -> None:
        """Forget what was captured; nothing of it may be queued."""
        for graph in self.graphs.values():
            self._driver.release("cudaGraphExecDestroy", graph)
        self.graphs.clear()

    def close(self) -> None:
        """Give everything back; nothing queued may still use it."""
        self.drop_graphs()
        for array in (self.host_state, self.rows_done):
            self._driver.unpin(array)
        self._memory.close()

    def _take(self, num_bytes: int, what: str) -> int:
        return self._memory.take(num_bytes, what)
