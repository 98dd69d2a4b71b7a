"""GPU memory: blocks that are freed together, and a buffer that grows."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.runtimes.cuda.driver import CudaDriver

# What TensorRT asks of every address.
ALIGNMENT: Final = 256


class DeviceMemory:
    """Blocks of GPU memory, freed by ``close``."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._sizes: dict[int, int] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes allocated now."""
        return sum(self._sizes.values())

    def take(self, num_bytes: int, what: str) -> int:
        """Address of a new block.

        Raises:
            CudaFailure: too little memory is free.
        """
        address = self._driver.allocate(max(num_bytes, 1), what)
        self._sizes[address] = num_bytes
        return address

    def give(self, address: int) -> None:
        """Free one block; nothing queued may still use it."""
        del self._sizes[address]
        self._driver.release("cudaFree", address)

    def close(self) -> None:
        """Free all blocks."""
        for address in list(self._sizes):
            self.give(address)


class GrowingBuffer:
    """One block that is replaced by a larger one on demand.

    ``version`` counts the replacements: whoever keeps the address looks at it.
    """

    def __init__(self, memory: DeviceMemory, what: str) -> None:
        self._memory, self._what = memory, what
        self.address = 0
        self.num_bytes = 0
        self.version = 0

    def reserve(self, num_bytes: int) -> None:
        """Make it hold that many bytes; nothing queued may still use it.

        Raises:
            CudaFailure: too little memory is free; the buffer is then empty.
        """
        if num_bytes <= self.num_bytes:
            return
        if self.address:
            # Freed first: two of the largest buffers at once may not fit.
            self._memory.give(self.address)
            self.address = self.num_bytes = 0
        self.version += 1
        self.address = self._memory.take(num_bytes, self._what)
        self.num_bytes = num_bytes


def aligned(num_bytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
