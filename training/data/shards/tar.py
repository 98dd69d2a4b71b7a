"""Samples of a tar shard: adjacent files whose names agree up to the first dot."""

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

# A shard's own description; WebDataset's reader skips names of this form.
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
        duplicate_suffix: a suffix of two files, or None.
    """

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    duplicate_suffix: str | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class Scan:
    """Offsets of the samples of a shard.

    Args:
        offsets: first byte of each sample.
        stop: byte after the last sample.
        end: byte where the archive has no further file.
        text: content of TEXT_MEMBER, or None.
    """

    offsets: list[int] = field(default_factory=list)
    stop: int = 0
    end: int = 0
    text: bytes | None = None


def scan_samples(url: str, stream: BinaryIO, *, seekable: bool) -> Scan:
    """Find the samples, without reading them where the stream can seek.

    Raises:
        TrainingError: not a complete, uncompressed tar file.
    """
    scan, last = Scan(), None
    with _tar(url, stream, seekable=seekable) as tar:
        for info in tar:
            if info.name == TEXT_MEMBER:
                scan.text = _content(tar, info)
            split = _split_name(info)
            if split is None:
                continue
            if split[0] != last:
                scan.offsets.append(info.offset)
            last, scan.stop = split[0], _end(info)
            # tarfile remembers every member otherwise.
            tar.members = []  # type: ignore[attr-defined]
        scan.end = tar.offset
    return scan


def iterate_samples(url: str, stream: BinaryIO, scan: Scan | None = None) -> Iterator[RawSample]:
    """The samples of a shard, read from start to end.

    Args:
        url: its name, for errors.
        stream: at its start.
        scan: filled as by ``scan_samples``; complete after the last sample.

    Raises:
        TrainingError: not a complete, uncompressed tar file.
    """
    scan = Scan() if scan is None else scan
    sample: RawSample | None = None
    with _tar(url, stream, seekable=False) as tar:
        for info in tar:
            if info.name == TEXT_MEMBER:
                scan.text = _content(tar, info)
            split = _split_name(info)
            if split is None:
                continue
            key, suffix = split
            if sample is None or key != sample.key:
                if sample is not None:
                    yield sample
                sample = RawSample(key=key)
                scan.offsets.append(info.offset)
            if suffix in sample.members:
                sample.duplicate_suffix = suffix
            sample.members[suffix] = _content(tar, info)
            scan.stop = _end(info)
            tar.members = []  # type: ignore[attr-defined]
        scan.end = tar.offset
    if sample is not None:
        yield sample


def read_sample(url: str, data: bytes) -> RawSample:
    """The single sample in these bytes of a shard.

    Raises:
        TrainingError: they hold none or several: the index belongs to another file.
    """
    try:
        samples = list(iterate_samples(url, io.BytesIO(data)))
    except TrainingError as error:
        raise _stale_index(url) from error
    if len(samples) != 1:
        raise _stale_index(url)
    return samples[0]


def _stale_index(url: str) -> TrainingError:
    return TrainingError(
        f"{url}: its index does not match it; run minit2i data check --index to rebuild it"
    )


def _split_name(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """Key and suffix, or None for a file that belongs to no sample."""
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
        raise TrainingError(f"{url}: not a complete tar file ({error}); create it again") from error


def check_uncompressed(url: str, head: bytes) -> None:
    """Refuse a compressed shard, in which no sample can be reached without reading all before it.

    Raises:
        TrainingError: ``head``, its first bytes, are those of a compressed file.
    """
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise TrainingError(
                f"{url}: is compressed ({name}); decompress it to a plain .tar file"
            )
