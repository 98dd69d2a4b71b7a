"""Freed memory back to the system, so that a server's memory stays flat."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Final

# A trim takes 0.4 to 2 ms.
EVERY_S: Final = 1.0
# Source: malloc.h of glibc.
_M_ARENA_MAX: Final = -8


def share_one_heap() -> bool:
    """Let threads that start from now on allocate from the main heap; whether that is possible.

    glibc gives each thread a heap of its own, and gives back what is free at its end only of the
    main one. To be called before there are threads: heaps that exist stay in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(_M_ARENA_MAX, 1) == 1


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

    def trim(self) -> bool:
        """Trim if the last time is ``EVERY_S`` ago; whether it was."""
        if self._trim is None or self._clock() - self._last_s < EVERY_S:
            return False
        self._trim(0)
        self._last_s = self._clock()
        return True
