"""Holds back what native libraries write to stderr behind Python's back."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def quiet_libraries(*, enabled: bool = True) -> Iterator[TextIO]:
    """Send file descriptor 2 to nowhere inside the block; yield a stream that still reaches it.

    Args:
        enabled: else nothing is held back.
    """
    if not enabled:
        yield sys.stderr
        return
    sys.stderr.flush()
    original = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with os.fdopen(os.dup(original), "w", encoding="utf-8", errors="replace") as stream:
            yield stream
    finally:
        os.dup2(original, 2)
        os.close(original)
