"""Shards wherever they lie: local files, http(s), and what fsspec reaches (s3, gs, memory)."""

from __future__ import annotations

import contextlib
import glob
import http.client
import io
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

from minit2i_deploy.errors import (
    Minit2iError,
    MissingDependencyError,
    TrainingError,
    UsageError,
    require,
)
from minit2i_deploy.io.files import atomic_file

# Waits before a second and a third try of a read over the network.
RETRY_AFTER_S: tuple[float, ...] = (0.5, 2.0)
_TIMEOUT_S: Final = 60.0
_HTTP: Final = ("http://", "https://")
# Object stores answer 403 for what is missing where listing is not allowed.
_NOT_THERE: Final = (403, 404, 410)
T = TypeVar("T")


def is_remote(url: str) -> bool:
    """Whether a shard's name is an address and no path."""
    return "://" in url


def expand(names: Sequence[str]) -> list[str]:
    """The shards that names stand for, in order: {000..099}, {a,b}, and for paths * and ?.

    Raises:
        UsageError: braces that do not close, a pattern that matches nothing, or a shard twice.
    """
    found = [match for name in names for word in _words(name) for match in _matches(word)]
    if len(set(found)) != len(found):
        twice = next(item for item in found if found.count(item) > 1)
        raise UsageError(f"{twice}: the shard is named twice; name it once and give it a weight")
    return found


def _words(name: str) -> list[str]:
    braces = require("braceexpand", "train")
    try:
        return list(braces.braceexpand(name))
    except (braces.UnbalancedBracesError, ValueError) as error:
        raise UsageError(
            f"{name}: its braces cannot be expanded; write them as {{000..099}}"
        ) from error


def _matches(name: str) -> list[str]:
    if is_remote(name) or not glob.has_magic(name) or os.path.exists(name):
        return [name]
    found = sorted(glob.glob(name))
    if not found:
        raise UsageError(f"{name}: matches no file; name shards that are there")
    return found


def num_bytes(url: str) -> int:
    """Size of a file.

    Raises:
        TrainingError: it is not there or cannot be reached.
    """
    with _reading(url):
        if not is_remote(url):
            return os.stat(url).st_size
        if not url.startswith(_HTTP):
            system, path = _filesystem(url)
            return int(system.info(path)["size"])
        with _again(lambda: _request(url, method="HEAD")) as reply:
            length = reply.headers.get("Content-Length")
        if length is None:
            raise TrainingError(f"{url}: the server does not tell its size; copy the shard here")
        return int(length)


def read_part(url: str, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` of a file.

    Raises:
        TrainingError: the file is missing, shorter, or its server sends no parts.
    """
    if start >= stop:
        return b""
    with _reading(url):
        if not is_remote(url):
            with open(url, "rb") as stream:
                stream.seek(start)
                data = stream.read(stop - start)
        elif url.startswith(_HTTP):
            data = _again(lambda: _http_part(url, start, stop))
        else:
            system, path = _filesystem(url)
            data = bytes(system.cat_file(path, start=start, end=stop))
    if len(data) != stop - start:
        raise TrainingError(
            f"{url}: has no bytes {start} to {stop}, which its index names; run minit2i data check "
            "--index"
        )
    return data


def read_if_there(url: str) -> bytes | None:
    """A whole small file, or None if there is none.

    Raises:
        TrainingError: it is there and cannot be read.
    """
    with contextlib.suppress(FileNotFoundError), _reading(url, missing_is_fine=True):
        with _opened(url) as stream:
            return stream.read()
    return None


@contextlib.contextmanager
def stream_of(url: str) -> Iterator[BinaryIO]:
    """A file open for reading from its start.

    Raises:
        TrainingError: it is missing or cannot be reached.
    """
    with _reading(url), _opened(url) as stream:
        yield stream


@contextlib.contextmanager
def _opened(url: str) -> Iterator[BinaryIO]:
    if not is_remote(url):
        with open(url, "rb") as stream:
            yield stream
    elif url.startswith(_HTTP):
        with _again(lambda: _request(url)) as reply:
            yield cast(BinaryIO, io.BufferedReader(reply, 1 << 20))
    else:
        system, path = _filesystem(url)
        with system.open(path, "rb") as stream:
            yield stream


def _http_part(url: str, start: int, stop: int) -> bytes:
    with _request(url, headers={"Range": f"bytes={start}-{stop - 1}"}) as reply:
        if reply.status != 206:
            raise TrainingError(
                f"{url}: the server sends whole files only, and parts are needed; set data.cache "
                "to a folder for copies"
            )
        return bytes(reply.read())


def _request(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(url, method=method, headers=headers or {})
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _NOT_THERE:
            raise FileNotFoundError(2, f"the server says {error.code} {error.reason}") from error
        raise


def _again(read: Callable[[], T]) -> T:
    """Try three times: one broken connection in a million must not end a run."""
    for wait_s in RETRY_AFTER_S:
        try:
            return read()
        except FileNotFoundError:
            raise
        except (OSError, http.client.HTTPException):
            time.sleep(wait_s)
    return read()


def _filesystem(url: str) -> tuple[Any, str]:
    # Asked for at each use: file systems do not survive the fork of a reading process.
    fsspec = require("fsspec", "train")
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(f"{url}: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise UsageError(f"{url}: {' '.join(str(error).split())}") from error
    return system, path


@contextlib.contextmanager
def _reading(url: str, *, missing_is_fine: bool = False) -> Iterator[None]:
    try:
        yield
    except Minit2iError:
        raise
    except Exception as error:
        if missing_is_fine and isinstance(error, FileNotFoundError):
            raise
        # What fsspec reaches fails with errors of libraries that nobody here knows.
        elsewhere = is_remote(url) and not url.startswith(_HTTP)
        if not elsewhere and not isinstance(error, OSError | http.client.HTTPException):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise TrainingError(
            f"{url}: cannot be read ({' '.join(str(reason).split())}); name a shard that is there"
        ) from error


def copy_to(url: str, folder: Path, name: str) -> Path:
    """A whole copy of a remote file, made once.

    Raises:
        TrainingError: it is missing or cannot be reached.
        UsageError: the folder cannot be written.
        Minit2iError: the disk is full.
    """
    target = folder / name
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}); choose a folder you can write"
        ) from error
    expected = num_bytes(url)
    with atomic_file(target) as partial:
        with stream_of(url) as stream, open(partial, "wb") as out:
            while block := stream.read(1 << 20):
                out.write(block)
        size = partial.stat().st_size
        if size != expected:
            raise TrainingError(
                f"{url}: the copy ended after {size} of {expected} bytes; try again"
            )
    return target
