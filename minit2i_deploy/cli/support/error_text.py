"""The one line for an error that nothing below the command line has put into words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

from minit2i_deploy.errors import Minit2iError, install_hint

_OUT_OF_MEMORY: Final = "out of memory; close other programs or use a smaller batch"
_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
# How libraries say it that have no class of error for it: loaders, C++, torch, arrow.
_MEMORY_WORDS: Final = (
    "failed to map segment",
    "cannot allocate memory",
    "failed to allocate",
    "allocation failed",
    "memory allocation",
    "not enough memory",
    "bad_alloc",
    "malloc of size",
)


def explained(error: Exception, extra: str) -> Minit2iError:
    """An error as one for the user, which has the original as its cause.

    Args:
        error: anything but a wrong use.
        extra: of the distribution, which installs what the command needs.
    """
    if isinstance(error, Minit2iError):
        is_plain = not is_out_of_memory(error) or "out of memory" in str(error)
        return error if is_plain else _caused(f"{error}: {_OUT_OF_MEMORY}", error)
    if is_out_of_memory(error):
        return _caused(_OUT_OF_MEMORY, error)
    library = _missing_library(error)
    if library is not None:
        return _caused(f"{library} is not installed; {install_hint(extra)}", error)
    if isinstance(error, OSError):
        return _caused(_system_text(error), error)
    text = f"{type(error).__name__}: {error} (unexpected; minit2i --debug shows where)"
    return _caused(text, error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it, or an error that it came from, says that memory ran out."""
    return any(_says_so(one) for one in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    text = str(error).lower()
    return any(words in text for words in _MEMORY_WORDS)


def _system_text(error: OSError) -> str:
    """Without the number that Python puts in front."""
    # Where a file is copied, it is the second one that is written.
    path = error.filename2 or error.filename
    reason = error.strerror or str(error)
    if path is None and error.errno in _DISK_ERRORS:
        return f"output cannot be written: {reason}; free some space there"
    return reason if path is None else f"{path}: {reason}"


def _missing_library(error: Exception) -> str | None:
    """The library that an import did not find; a missing module of ours is a mistake of ours."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    library = error.name.partition(".")[0]
    return None if library == "minit2i_deploy" else library


def _caused(text: str, cause: Exception) -> Minit2iError:
    error = Minit2iError(text)
    error.__cause__ = cause
    return error
