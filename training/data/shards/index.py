"""The index of a shard: the offset of each sample, so that any one of them can be read alone.

SHARD.index.json beside the shard: {"format", "version", "bytes" of the shard, "offsets" of the
samples and of their end, "text"}; text is the description of embeddings by `minit2i data embed`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tarfile
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from jaxtyping import Int64

from minit2i_deploy.errors import DataWarning, Minit2iError, TrainingError
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.training.data.shards import storage
from minit2i_deploy.training.data.shards.tar import (
    RawSample,
    Scan,
    check_uncompressed,
    read_sample,
    scan_samples,
)

SUFFIX: Final = ".index.json"
FORMAT: Final = "minit2i-shard-index"
VERSION: Final = 1
_NUM_THREADS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShardIndex:
    """One shard and the samples in it.

    Args:
        url: path or address, as it was named.
        location: where it is read from: its copy, if there is one.
        num_bytes: size of the shard.
        offsets: first byte of each sample, then the byte after the last.
        text: the shard's description of its embeddings, or None.
        was_downloaded: whether a remote shard was read completely to find its samples.
    """

    url: str
    location: str
    num_bytes: int
    offsets: Int64[np.ndarray, " samples+1"]
    text: Mapping[str, Any] | None
    was_downloaded: bool = False

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, number: int) -> RawSample:
        """One sample.

        Raises:
            TrainingError: the shard cannot be read, or has changed since it was indexed.
        """
        start, stop = int(self.offsets[number]), int(self.offsets[number + 1])
        return read_sample(self.url, storage.read_range(self.location, start, stop))

    def to_json(self) -> str:
        """The text of the index file."""
        values = {"format": FORMAT, "version": VERSION, "bytes": self.num_bytes}
        text = None if self.text is None else dict(self.text)
        return json.dumps({**values, "offsets": self.offsets.tolist(), "text": text}) + "\n"


def open_indexes(
    urls: Sequence[str],
    cache: str = "",
    progress: Progress = no_progress,
) -> list[ShardIndex]:
    """The index of every shard: read if it exists, otherwise built, and saved where possible.

    Args:
        urls: paths or addresses.
        cache: folder for copies of remote shards; empty for none.
        progress: called with the share of shards that are open.

    Raises:
        TrainingError: a shard is missing, corrupt or compressed.
    """
    indexes = []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for index in pool.map(lambda url: open_index(url, cache), urls):
            indexes.append(index)
            progress(len(indexes) / len(urls), f"{len(indexes)}/{len(urls)}")
    unsaved = [index for index in indexes if index.was_downloaded]
    if unsaved:
        warnings.warn(
            f"{unsaved[0].url}: has no index beside it; {len(unsaved)} such shards were read "
            "completely and will be at each start; set data.cache or upload the indexes",
            DataWarning,
            stacklevel=2,
        )
    return indexes


def open_index(url: str, cache: str = "") -> ShardIndex:
    """The index of one shard; see ``open_indexes``."""
    location = url
    if cache and storage.is_remote(url):
        location = str(storage.download(url, Path(cache), _copy_name(url)))
    size = storage.size_bytes(location)
    index = _read_index(url, location, size)
    if index is not None:
        return index
    index = build_index(url, location, size)
    if storage.is_remote(location):
        return dataclasses.replace(index, was_downloaded=True)
    write_index(index)
    return index


def build_index(url: str, location: str, num_bytes: int) -> ShardIndex:
    """Find the samples of a shard; a remote one is read completely.

    Raises:
        TrainingError: it is corrupt or compressed.
    """
    if num_bytes:
        check_uncompressed(url, storage.read_range(location, 0, min(num_bytes, 8)))
    with storage.open_stream(location) as stream:
        scan = scan_samples(url, stream, seekable=not storage.is_remote(location))
    return index_from_scan(url, location, num_bytes, scan)


def index_from_scan(url: str, location: str, num_bytes: int, scan: Scan) -> ShardIndex:
    """The index from a scan of a shard.

    Raises:
        TrainingError: the shard ends early or has other data after its files.
    """
    if not _is_end(location, num_bytes, scan.end):
        raise TrainingError(f"{url}: is corrupt at byte {scan.end}; create it again")
    offsets = np.array([*scan.offsets, scan.stop], dtype=np.int64)
    text = None if scan.text is None else _parse_text(url, scan.text)
    return ShardIndex(url=url, location=location, num_bytes=num_bytes, offsets=offsets, text=text)


def _is_end(location: str, num_bytes: int, end: int) -> bool:
    """Whether the archive really ends there; tarfile takes a corrupt header for the end."""
    if storage.is_remote(location):
        # After the end are zeros to a multiple of a record; not every server supports ranges.
        return end <= num_bytes <= end + tarfile.RECORDSIZE
    return end <= num_bytes and not storage.read_range(
        location, end, min(end + 512, num_bytes)
    ).strip(b"\0")


def write_index(index: ShardIndex) -> bool:
    """Save the index beside the shard; False if that folder cannot be written."""
    try:
        atomic_write_text(index.location + SUFFIX, index.to_json())
    except Minit2iError:
        return False
    return True


def _read_index(url: str, location: str, num_bytes: int) -> ShardIndex | None:
    """The saved index, or None if there is none or it is stale."""
    data = storage.read_if_exists(location + SUFFIX)
    if data is None or _is_older(location):
        return None
    try:
        values = json.loads(data)
        offsets = np.array(values["offsets"], dtype=np.int64)
        valid = (values["format"], values["version"]) == (FORMAT, VERSION)
        valid = valid and values["bytes"] == num_bytes and offsets.ndim == 1 and len(offsets) > 0
        valid = valid and bool((np.diff(offsets) > 0).all()) and int(offsets[-1]) <= num_bytes
        text = values["text"]
        valid = valid and offsets[0] >= 0 and (text is None or isinstance(text, dict))
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    if not valid:
        return None
    return ShardIndex(url=url, location=location, num_bytes=num_bytes, offsets=offsets, text=text)


def _is_older(location: str) -> bool:
    if storage.is_remote(location):
        return False
    return os.stat(location + SUFFIX).st_mtime_ns < os.stat(location).st_mtime_ns


def _copy_name(url: str) -> str:
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return f"{digest}-{PurePosixPath(url).name}"


def _parse_text(url: str, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise TrainingError(f"{url}: its member __text__ is not JSON; embed it again") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{url}: its member __text__ is not a JSON object; embed it again")
    return values
