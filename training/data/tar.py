"""Samples of a tar shard: neighbouring files whose names agree up to the first dot."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import BinaryIO, Final

from minit2i_deploy.errors import TrainingError, require

# What a shard says of itself; WebDataset's own reader passes over names of this form.
TEXT_MEMBER: Final = "__text__"
_SPECIAL: Final = re.compile(r"__[^/]*__($|/)")
_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"(\xb5/\xfd": "zstd",
}
_BLOCK: Final = 512


@dataclass(kw_only=True, slots=True, eq=False)
class RawSample:
    """The files of one sample.

    Args:
        key: their common name.
        members: suffix in lower case to content.
        twice: a suffix that came twice, or None.
    """

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    twice: str | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Scan:
    """Where the samples of a shard lie.

    Args:
        offsets: first byte of each sample.
        stop: byte after the last sample.
        end: byte where no further file was found.
        text: content of TEXT_MEMBER, or None.
    """

    offsets: list[int] = field(default_factory=list)
    stop: int = 0
    end: int = 0
    text: bytes | None = None


def scan(url: str, stream: BinaryIO, *, seekable: bool) -> Scan:
    """Find the samples without reading them, where the stream can seek.

    Raises:
        TrainingError: not a whole, uncompressed tar file.
    """
    found, last = Scan(), None
    with _tar(url, stream, seekable=seekable) as tar:
        for info in tar:
            if info.name == TEXT_MEMBER:
                found.text = _content(tar, info)
            split = _name(info)
            if split is None:
                continue
            if split[0] != last:
                found.offsets.append(info.offset)
            last, found.stop = split[0], _end(info)
            # tarfile remembers every member otherwise.
            tar.members = []  # type: ignore[attr-defined]
        found.end = tar.offset
    return found


def walk(url: str, stream: BinaryIO, found: Scan | None = None) -> Iterator[RawSample]:
    """The samples of a whole shard, read from start to end.

    Args:
        url: its name, for errors.
        stream: at its start.
        found: filled as ``scan`` does; complete after the last sample.

    Raises:
        TrainingError: not a whole, uncompressed tar file.
    """
    found = Scan() if found is None else found
    sample: RawSample | None = None
    with _tar(url, stream, seekable=False) as tar:
        for info in tar:
            if info.name == TEXT_MEMBER:
                found.text = _content(tar, info)
            split = _name(info)
            if split is None:
                continue
            key, suffix = split
            if sample is None or key != sample.key:
                if sample is not None:
                    yield sample
                sample = RawSample(key=key)
                found.offsets.append(info.offset)
            if suffix in sample.members:
                sample.twice = suffix
            sample.members[suffix] = _content(tar, info)
            found.stop = _end(info)
            tar.members = []  # type: ignore[attr-defined]
        found.end = tar.offset
    if sample is not None:
        yield sample


def read_sample(url: str, data: bytes) -> RawSample:
    """The one sample in these bytes of a shard.

    Raises:
        TrainingError: they hold none or several, so the shard's index is that of another file.
    """
    try:
        samples = list(walk(url, io.BytesIO(data)))
    except TrainingError as error:
        raise _stale(url) from error
    if len(samples) != 1:
        raise _stale(url)
    return samples[0]


def _stale(url: str) -> TrainingError:
    return TrainingError(
        f"{url}: its index does not fit it; run minit2i data check --index to make it anew"
    )


def _name(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and suffix, or None for what is no part of a sample."""
    if not info.isreg() or _SPECIAL.match(info.name):
        return None
    key, suffix = _splitter()(info.name)
    return None if key is None else (key, suffix.lower())


@cache
def _splitter() -> Callable[[str], tuple[str | None, str]]:
    tariterators = require("webdataset.tariterators", "train")
    split: Callable[[str], tuple[str | None, str]] = tariterators.base_plus_ext
    return split


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(info)
    data = b"" if stream is None else stream.read()
    if len(data) != info.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _end(info: tarfile.TarInfo) -> int:
    return info.offset_data + -(-info.size // _BLOCK) * _BLOCK


@contextlib.contextmanager
def _tar(url: str, stream: BinaryIO, *, seekable: bool) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=stream, mode="r:" if seekable else "r|") as tar:
            yield tar
    except tarfile.TarError as error:
        raise TrainingError(f"{url}: not a whole tar file ({error}); make it again") from error


def check_plain(url: str, head: bytes) -> None:
    """Refuse a compressed shard, in which no sample can be found without reading all before it.

    Raises:
        TrainingError: ``head``, its first bytes, are those of a compressed file.
    """
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise TrainingError(f"{url}: is compressed ({name}); unpack it to a plain .tar file")
