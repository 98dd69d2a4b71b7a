"""Returning memory to the system while a build runs.

The parser maps the weights' file, and every page that the library has copied into the engine would
stay resident beside the copy; blocks that it has freed would stay with the allocator. Both are
returned several times a second; pages are read from the file again if they are needed again.
Nothing here can change the result. The advice discards no data, and on a system that does not
support it a build takes more memory and is otherwise the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_MAPS: Final = Path("/proc/self/maps")
# Linux 5.4 and later, asm-generic/mman-common.h; Python's mmap module lacks it. Unlike
# MADV_DONTNEED it preserves written data, should a range have been mapped anew meanwhile.
_MADV_PAGEOUT: Final = 21
# Copying weights of gigabytes takes seconds; shorter intervals cost more processor time.
_EVERY_S: Final = 0.25


@contextlib.contextmanager
def reclaiming(data_file: Path) -> Iterator[None]:
    """Return memory in a thread while the block runs, and once at its end.

    Args:
        data_file: the weights that the library maps; it need not exist.
    """
    done = threading.Event()

    def work() -> None:
        while not done.wait(_EVERY_S):
            reclaim(data_file)

    thread = threading.Thread(target=work, name="reclaim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        reclaim(data_file)


def reclaim(data_file: Path) -> None:
    """Return the mapped pages of a file, and the allocator's free blocks."""
    library = _c_library()
    if hasattr(library, "madvise"):
        for begin, end in mappings(data_file):
            library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_PAGEOUT)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(ctypes.c_size_t(0))


def mappings(path: Path) -> list[tuple[int, int]]:
    """Addresses of begin and end of a file's mappings in this process; [] if unknown."""
    try:
        lines = _MAPS.read_text("utf-8", "replace").splitlines()
        name = str(path.resolve())
    except OSError:
        return []
    # address permissions offset device inode path
    parts = (line.split(maxsplit=5) for line in lines)
    ranges = (part[0].split("-") for part in parts if len(part) == 6 and part[5] == name)
    return [(int(begin, 16), int(end, 16)) for begin, end in ranges]


def _c_library() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # a system without a shared C library
        return None
