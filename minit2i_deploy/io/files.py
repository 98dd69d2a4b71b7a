"""Files and folders that are complete or absent, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from minit2i_deploy.errors import Minit2iError, UsageError

# Libraries write in pieces, so that a full disk may have some room left.
_LEAST_FREE_BYTES: Final = 2**20
# What a full or broken disk gives; anything else may be about a file that is read.
_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hash a file without loading all of it.

    Returns:
        64 lower-case hexadecimal digits.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_files(files: Sequence[Path], root: Path) -> str:
    """The sha256 of one file; of several, that of the lines ``sha256sum`` prints for them.

    Args:
        files: at least one.
        root: folder that the names in those lines are relative to.
    """
    digests = {file.relative_to(root).as_posix(): sha256_file(file) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a sibling file, sync it to disk, and rename it into place.

    Raises:
        UsageError: the folder is missing or may not be written.
        Minit2iError: the disk failed or is full.
    """
    target = Path(path)
    partial = _partial(target)
    try:
        with open(partial, "wb") as stream:
            stream.write(data)
            # Before the rename, or a power cut may leave the new name with an empty file.
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        if isinstance(error, OSError):
            raise write_error(target, error) from error
        raise


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text as ``atomic_write_bytes`` does; line ends are not changed."""
    atomic_write_bytes(path, text.encode("utf-8"))


def append_line(path: Path, line: str) -> None:
    """Append a line of UTF-8 text to a file, or nothing of it if the disk is full.

    Raises:
        UsageError: the folder is missing or may not be written.
        Minit2iError: the disk failed or is full.
    """
    try:
        with open(path, "ab", buffering=0) as stream:
            size, data = stream.seek(0, os.SEEK_END), f"{line}\n".encode()
            if stream.write(data) != len(data):
                stream.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise write_error(path, error) from error


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a sibling file to write, and rename it into place if the block succeeds.

    For files too large for memory; otherwise as ``atomic_write_bytes``, and an exception,
    Ctrl-C or SIGTERM inside the block removes the sibling.

    Raises:
        UsageError: the folder is missing or may not be written.
        Minit2iError: the disk failed or is full.
    """
    target = Path(path)
    partial = _partial(target)
    try:
        with _sigterm_raises():
            yield partial
            with open(partial, "rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(partial, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        # The exit status must say that a signal ended the process.
        if isinstance(error, _Terminated):
            signal.raise_signal(signal.SIGTERM)
        if isinstance(error, OSError):
            raise write_error(target, error) from error
        raise


@contextlib.contextmanager
def atomic_directory(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    check: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Yield a sibling folder to fill, and rename it into place if the block succeeds.

    The sibling is ``.<name>.partial-<pid>-<host>``. An exception, Ctrl-C or SIGTERM inside the
    block removes it and does not touch ``path``; a kill that cannot be caught leaves the sibling
    behind, never a partial target. After the cleanup SIGTERM ends the process as usual.

    Args:
        path: the folder to create; missing parents are created.
        overwrite: replace an existing folder with everything in it.
        check: raises if a folder that is not empty must not be replaced; called before the work
            and again before the rename.

    Raises:
        UsageError: the target exists and is not an empty folder (or, with overwrite, is not a
            folder), or its parent may not be written.
        Minit2iError: the disk failed or is full.
    """
    target = Path(path).resolve()
    check_target(target, overwrite, check)
    partial = _partial(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    except OSError as error:
        raise write_error(target, error) from error
    try:
        with _sigterm_raises():
            yield partial
            check_target(target, overwrite, check)
            _move_into_place(partial, target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, _Terminated):
            signal.raise_signal(signal.SIGTERM)
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise write_error(target, error) from error
        raise


@contextlib.contextmanager
def cleanup_on_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM unwinds the stack, and then ends the process as usual.

    For what removes locks and empty folders when it ends, and makes no folder atomically.
    """
    try:
        with _sigterm_raises():
            yield
    except _Terminated:
        signal.raise_signal(signal.SIGTERM)
        raise


class _Terminated(BaseException):
    """Raised by SIGTERM, to unwind the stack and remove partial work."""


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    # Only the main thread can set handlers, and an application's handler must stay.
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def unwind(signum: int, frame: FrameType | None) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _partial(target: Path) -> Path:
    # Beside the target, because renaming is atomic within one file system only.
    # With the machine, because on a shared disk containers often have the same pid.
    return target.with_name(f".{target.name}.partial-{os.getpid()}-{socket.gethostname()}")


def remove_leftovers(target: Path) -> None:
    """Remove what killed processes left of ``atomic_directory``; the caller holds its lock."""
    # Without the target, what stepped aside for it is the only copy.
    for kind in ("partial", "replaced") if target.exists() else ("partial",):
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.{kind}-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def only_with(name: str) -> Callable[[Path], None]:
    """A check for ``atomic_directory``: replace a folder only if it holds a file of that name.

    Raises:
        UsageError: from the check, if the folder holds none.
    """

    def check(folder: Path) -> None:
        if not (folder / name).is_file():
            raise UsageError(f"{folder}: holds no {name}, so it is not replaced; name a new folder")

    return check


def check_target(
    target: Path, overwrite: bool, check: Callable[[Path], None] | None = None
) -> None:
    """Raise what ``atomic_directory`` would raise before its work; arguments as there."""
    try:
        is_folder = target.is_dir()
        if target.exists() and not is_folder:
            raise UsageError(f"{target}: is a file, expected a folder; name a new folder")
        occupied = is_folder and any(target.iterdir())
    except OSError as error:
        raise write_error(target, error) from error
    if occupied and not overwrite:
        raise UsageError(f"{target}: the folder exists and is not empty; name a new folder")
    if occupied and check is not None:
        check(target)


@contextlib.contextmanager
def remove_if_empty(folder: Path) -> Iterator[None]:
    """Remove, when the block ends, those folders of a path that it created and left empty.

    Args:
        folder: the path; missing parents are removed as well. Folders that existed before stay.
    """
    missing = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    try:
        yield
    finally:
        # From the innermost; the first that is not empty, or does not exist, ends the loop.
        with contextlib.suppress(OSError):
            for place in missing:
                place.rmdir()


def _move_into_place(partial: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    try:
        if not target.exists():
            os.rename(partial, target)
            return
        # A folder that is not empty cannot be replaced by renaming, so it steps aside first.
        os.rename(target, aside)
        try:
            os.rename(partial, target)
        except BaseException:
            os.rename(aside, target)
            raise
    except OSError as error:
        raise write_error(target, error) from error
    shutil.rmtree(aside, ignore_errors=True)


def write_error(target: Path, error: OSError) -> Minit2iError:
    """The error of an output that the system did not let write.

    Args:
        target: the output.
        error: of the system.

    Returns:
        a UsageError for a wrong place, else a failure of the disk.
    """
    text = f"{target}: cannot be written: {error.strerror or error}; choose a folder you can write"
    wrong_place = (
        PermissionError,
        FileExistsError,
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
    )
    if isinstance(error, wrong_place):
        return UsageError(text)
    return Minit2iError(f"{target}: cannot be written: {error.strerror or error}")


def disk_is_full(folder: Path) -> bool:
    """Whether a folder's disk has no room left, for errors of libraries that do not say so."""
    try:
        return shutil.disk_usage(folder).free < _LEAST_FREE_BYTES
    except OSError:
        return False
