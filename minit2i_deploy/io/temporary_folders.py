"""Folders that are made before the work and go again if the work leaves nothing in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def gone_if_empty(folder: Path) -> Iterator[None]:
    """Remove, when the block ends, what it made of this path and left empty.

    Args:
        folder: the path; missing parents count as well. Whatever stood there before stays.
    """
    missing = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        yield
    finally:
        # From the innermost: the first that holds something, or is not there, ends it.
        with contextlib.suppress(OSError):
            for place in missing:
                place.rmdir()
