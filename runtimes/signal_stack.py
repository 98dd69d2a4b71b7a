"""The alternate signal stack of a thread, preserved while a library is loaded.

OpenVINO's CPU plugin gives the thread that loads it an alternate signal stack and unmaps it when it
is freed (2026.4). Python handles signals there, so Ctrl-C would then end the process with a
segmentation fault in the place of a KeyboardInterrupt.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from typing import Any


class _SignalStack(ctypes.Structure):
    """stack_t of sigaltstack(2) on Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextlib.contextmanager
def preserved_signal_stack() -> Iterator[None]:
    """Whatever happens inside, this thread's alternate signal stack is the same afterwards."""
    if not sys.platform.startswith("linux"):
        yield
        return
    library: Any = ctypes.CDLL(None)
    before = _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)
