"""Freed memory back to the system, so that a server's memory stays flat."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Final

# A trim takes 0.4 to 2 ms, and each call after it asks for its pages again.
EVERY_S: Final = 10.0
# While nobody waits.
IDLE_EVERY_S: Final = 1.0
# Source: malloc.h of glibc, and the largest mapping threshold that it takes.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_LARGEST_THRESHOLD: Final = 32 * 2**20
_NEVER: Final = 2**31 - 1


def set_up_heap() -> bool:
    """Set the C library's heap up for a server; whether that is possible.

    To be called before there are threads: heaps that exist stay in use. glibc gives each thread a
    heap of its own, and gives back what is free at its end only of the main one, so threads that
    start from now on allocate from that. It also gives back the arrays of a call of the network
    when they are freed, and the next call takes 1000 page faults to have them again. So freed
    memory stays until a ``MemoryTrimmer`` gives it back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD),
        (_M_TRIM_THRESHOLD, _NEVER),
    )
    return all([mallopt(name, value) == 1 for name, value in settings])


class MemoryTrimmer:
    """Gives back what the C library has kept of freed memory, now and then.

    glibc keeps the pages of arrays that came and went between others in use, so a server would grow
    for hours. Other C libraries have no such function, and nothing is done there.

    Args:
        clock: seconds that never run backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._clock, self._last_s = clock, clock()

    def trim(self, every_s: float = EVERY_S) -> bool:
        """Trim if the last time is ``every_s`` ago; whether it was."""
        if self._trim is None or self._clock() - self._last_s < every_s:
            return False
        self._trim(0)
        self._last_s = self._clock()
        return True
