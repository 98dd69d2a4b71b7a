"""Storage of shards: local files, http(s), and what fsspec reaches (s3, gs, memory)."""

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
# Object stores answer 403 for missing objects where listing is not allowed.
_MISSING: Final = (403, 404, 410)
T = TypeVar("T")


def is_remote(url: str) -> bool:
    """Whether a shard's name is an address, not a path."""
    return "://" in url


def expand_names(names: Sequence[str]) -> list[str]:
    """The shards that names match, in order: {000..099}, {a,b}, and for paths * and ?.

    Raises:
        UsageError: unbalanced braces, a pattern that matches nothing, or a shard named twice.
    """
    urls = [url for name in names for pattern in _expand_braces(name) for url in _glob(pattern)]
    if len(set(urls)) != len(urls):
        duplicate = next(url for url in urls if urls.count(url) > 1)
        raise UsageError(f"{duplicate}: is named twice; name it once and set its source's weight")
    return urls


def _expand_braces(name: str) -> list[str]:
    braces = require("braceexpand", "train")
    try:
        return list(braces.braceexpand(name))
    except (braces.UnbalancedBracesError, ValueError) as error:
        raise UsageError(
            f"{name}: its braces cannot be expanded; write them as {{000..099}}"
        ) from error


def _glob(name: str) -> list[str]:
    if is_remote(name) or not glob.has_magic(name) or os.path.exists(name):
        return [name]
    matches = sorted(glob.glob(name))
    if not matches:
        raise UsageError(f"{name}: matches no file; name existing shards")
    return matches


def size_bytes(url: str) -> int:
    """Size of a file.

    Raises:
        TrainingError: it is missing or cannot be reached.
    """
    with _read_errors(url):
        if not is_remote(url):
            return os.stat(url).st_size
        if not url.startswith(_HTTP):
            system, path = _filesystem(url)
            return int(system.info(path)["size"])
        with _with_retries(lambda: _request(url, method="HEAD")) as reply:
            length = reply.headers.get("Content-Length")
        if length is None:
            raise TrainingError(f"{url}: the server does not report its size; use a local copy")
        return int(length)


def read_range(url: str, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` of a file.

    Raises:
        TrainingError: the file is missing or shorter, or its server does not support ranges.
    """
    if start >= stop:
        return b""
    with _read_errors(url):
        if not is_remote(url):
            with open(url, "rb") as stream:
                stream.seek(start)
                data = stream.read(stop - start)
        elif url.startswith(_HTTP):
            data = _with_retries(lambda: _http_part(url, start, stop))
        else:
            system, path = _filesystem(url)
            data = bytes(system.cat_file(path, start=start, end=stop))
    if len(data) != stop - start:
        raise TrainingError(
            f"{url}: has no bytes {start} to {stop}, which its index names; run minit2i data check "
            "--index"
        )
    return data


def read_if_exists(url: str) -> bytes | None:
    """The contents of a small file, or None if there is none.

    Raises:
        TrainingError: it exists and cannot be read.
    """
    with contextlib.suppress(FileNotFoundError), _read_errors(url, allow_missing=True):
        with _open(url) as stream:
            return stream.read()
    return None


@contextlib.contextmanager
def open_stream(url: str) -> Iterator[BinaryIO]:
    """A file open for reading from its start.

    Raises:
        TrainingError: it is missing or cannot be reached.
    """
    with _read_errors(url), _open(url) as stream:
        yield stream


@contextlib.contextmanager
def _open(url: str) -> Iterator[BinaryIO]:
    if not is_remote(url):
        with open(url, "rb") as stream:
            yield stream
    elif url.startswith(_HTTP):
        with _with_retries(lambda: _request(url)) as reply:
            yield cast(BinaryIO, io.BufferedReader(reply, 1 << 20))
    else:
        system, path = _filesystem(url)
        with system.open(path, "rb") as stream:
            yield stream


def _http_part(url: str, start: int, stop: int) -> bytes:
    with _request(url, headers={"Range": f"bytes={start}-{stop - 1}"}) as reply:
        if reply.status != 206:
            raise TrainingError(
                f"{url}: the server does not support range requests; set data.cache to a folder "
                "for copies"
            )
        return bytes(reply.read())


def _request(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(url, method=method, headers=headers or {})
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _MISSING:
            raise FileNotFoundError(2, f"the server answers {error.code} {error.reason}") from error
        raise


def _with_retries(read: Callable[[], T]) -> T:
    """Try three times, because one broken connection in a million must not end a run."""
    for wait_s in RETRY_AFTER_S:
        try:
            return read()
        except FileNotFoundError:
            raise
        except (OSError, http.client.HTTPException):
            time.sleep(wait_s)
    return read()


def _filesystem(url: str) -> tuple[Any, str]:
    # Opened at each use: file systems do not survive the fork of a worker process.
    fsspec = require("fsspec", "train")
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(f"{url}: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise UsageError(f"{url}: {' '.join(str(error).split())}") from error
    return system, path


@contextlib.contextmanager
def _read_errors(url: str, *, allow_missing: bool = False) -> Iterator[None]:
    try:
        yield
    except Minit2iError:
        raise
    except Exception as error:
        if allow_missing and isinstance(error, FileNotFoundError):
            raise
        # fsspec's file systems raise their own libraries' errors, which cannot be listed here.
        uses_fsspec = is_remote(url) and not url.startswith(_HTTP)
        if not uses_fsspec and not isinstance(error, OSError | http.client.HTTPException):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise TrainingError(
            f"{url}: cannot be read ({' '.join(str(reason).split())}); name an existing shard"
        ) from error


def download(url: str, folder: Path, name: str) -> Path:
    """A local copy of a remote file, made once.

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
            f"{folder}: cannot be created ({error.strerror}); choose a folder you can write"
        ) from error
    expected = size_bytes(url)
    with atomic_file(target) as partial:
        with open_stream(url) as stream, open(partial, "wb") as out:
            while block := stream.read(1 << 20):
                out.write(block)
        size = partial.stat().st_size
        if size != expected:
            raise TrainingError(
                f"{url}: the copy ended after {size} of {expected} bytes; try again"
            )
    return target
