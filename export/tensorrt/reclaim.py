"""What a build no longer needs goes back to the system while the build goes on.

The parser maps the weights' file, and every page that the library has copied into the engine would
stay resident beside the copy; blocks that it has freed would stay with the allocator. Both are
returned several times a second: pages are read from the file again where they are needed again.
Nothing here can change what is built. The advice discards no data, and where a system or its
allocator knows none of it, a build takes more memory and is otherwise the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_MAPS: Final = Path("/proc/self/maps")
# Linux 5.4 and later, asm-generic/mman-common.h; Python's mmap module does not name it. Unlike
# MADV_DONTNEED it keeps what was written, so that a range that has changed hands loses nothing.
_MADV_PAGEOUT: Final = 21
# Copying weights of gigabytes takes seconds; asking more often costs the processor more.
_EVERY_S: Final = 0.25


@contextlib.contextmanager
def reclaiming(data_file: Path) -> Iterator[None]:
    """Return memory in a thread beside the block, and once at its end.

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
    """Return the mapped pages of a file, and what the allocator holds for later."""
    library = _c_library()
    if hasattr(library, "madvise"):
        for begin, end in mappings(data_file):
            library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_PAGEOUT)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(ctypes.c_size_t(0))


def mappings(path: Path) -> list[tuple[int, int]]:
    """Where a file is mapped into this process: addresses of begin and end; [] if unknown."""
    try:
        lines = _MAPS.read_text("utf-8", "replace").splitlines()
        wanted = str(path.resolve())
    except OSError:
        return []
    # address permissions offset device inode path
    parts = (line.split(maxsplit=5) for line in lines)
    ranges = (part[0].split("-") for part in parts if len(part) == 6 and part[5] == wanted)
    return [(int(begin, 16), int(end, 16)) for begin, end in ranges]


def _c_library() -> Any:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # systems without one C library that all share
        return None
