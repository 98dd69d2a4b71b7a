"""A lock file for one writer of an output at a time; the system releases it if a process dies."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.io.files import cleanup_on_sigterm, remove_if_empty, write_error

_RETRY_S: Final = 0.5


@contextlib.contextmanager
def output_lock(output: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Be the only process that writes an output, by a file ``.NAME.lock`` beside it.

    SIGTERM inside the block removes the file before it ends the process, unless a handler was set
    before the block. A kill that cannot be caught leaves it, and the next process takes it over.

    Args:
        output: file or folder; missing parents are created, and removed again if they stay empty.
        wait_s: how long to wait for another process.

    Raises:
        Minit2iError: another process is writing it, named by its pid.
        UsageError: its parent may not be written.
        Minit2iError: the disk failed or is full.
    """
    path = output.with_name(f".{output.name}.lock")
    deadline = time.monotonic() + wait_s
    with cleanup_on_sigterm(), remove_if_empty(path.parent):
        while (stream := _try_lock(path)) is None:
            if time.monotonic() >= deadline:
                raise Minit2iError(
                    f"{output}: process {_holder(path)} is writing it; wait for it to end, or name "
                    "another output"
                )
            time.sleep(_RETRY_S)
        try:
            yield
        finally:
            # Removed before it is released: whoever waits on the open file then sees a stale name.
            with contextlib.suppress(OSError):
                path.unlink()
            stream.close()


def _try_lock(path: Path) -> BinaryIO | None:
    try:
        stream = _open(path)
    except OSError as error:
        raise UsageError(
            f"{path.parent}: cannot be written ({error.strerror}); choose a folder you can write"
        ) from error
    if not _lock(stream) or not _is_same_file(path, stream):
        stream.close()
        return None
    try:
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n".encode("ascii"))
        stream.flush()
    except OSError as error:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            stream.close()
        raise write_error(path, error) from error
    return stream


def _open(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return open(path, "a+b")
    except FileNotFoundError:
        # Another process has just removed the folder because it was empty.
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+b")


def _lock(stream: BinaryIO) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:
        return _lock_on_windows(stream)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_on_windows(stream: BinaryIO) -> bool:
    import importlib

    msvcrt = importlib.import_module("msvcrt")
    # A byte far behind the pid, so that others can still read the pid.
    stream.seek(2**20)
    try:
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


def _is_same_file(path: Path, stream: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(stream.fileno()))
    except OSError:
        return False


def _holder(path: Path) -> str:
    try:
        return path.read_text("ascii").strip() or "of unknown pid"
    except (OSError, ValueError):
        return "of unknown pid"
