"""The index of a shard: where each sample lies, so that any one of them can be read alone.

SHARD.index.json beside the shard: {"format", "version", "bytes" of the shard, "offsets" of the
samples and of their end, "text"}; text is what `minit2i data embed` says of the encoder.
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
from minit2i_deploy.training.data import storage
from minit2i_deploy.training.data.tar import RawSample, Scan, check_plain, read_sample, scan

SUFFIX: Final = ".index.json"
FORMAT: Final = "minit2i-shard-index"
VERSION: Final = 1
_OPEN_AT_ONCE: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShardIndex:
    """One shard and the samples in it.

    Args:
        url: path or address, as it was named.
        place: where it is read from; its copy, if there is one.
        num_bytes: size of the shard.
        offsets: first byte of each sample, then the byte after the last.
        text: what the shard says of its embeddings, or None.
        was_read: whether a remote shard was read whole to find its samples.
    """

    url: str
    place: str
    num_bytes: int
    offsets: Int64[np.ndarray, " samples+1"]
    text: Mapping[str, Any] | None
    was_read: bool = False

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, number: int) -> RawSample:
        """One sample.

        Raises:
            TrainingError: the shard cannot be read, or is another than was indexed.
        """
        start, stop = int(self.offsets[number]), int(self.offsets[number + 1])
        return read_sample(self.url, storage.read_part(self.place, start, stop))

    def to_json(self) -> str:
        """The text of the index file."""
        values = {"format": FORMAT, "version": VERSION, "bytes": self.num_bytes}
        text = None if self.text is None else dict(self.text)
        return json.dumps({**values, "offsets": self.offsets.tolist(), "text": text}) + "\n"


def indexes(
    urls: Sequence[str],
    cache: str = "",
    progress: Progress = no_progress,
) -> list[ShardIndex]:
    """The index of every shard: read where there is one, otherwise made and kept where possible.

    Args:
        urls: paths or addresses.
        cache: folder for copies of remote shards; empty leaves them where they are.
        progress: called with the share of shards that are read.

    Raises:
        TrainingError: a shard is missing, damaged or compressed.
    """
    found = []
    with ThreadPoolExecutor(_OPEN_AT_ONCE) as pool:
        for index in pool.map(lambda url: index_of(url, cache), urls):
            found.append(index)
            progress(len(found) / len(urls), f"{len(found)}/{len(urls)}")
    unkept = [index for index in found if index.was_read]
    if unkept:
        warnings.warn(
            f"{unkept[0].url}: has no index beside it; {len(unkept)} such shards were read whole "
            "to find their samples, and will be at each start; set data.cache or put indexes there",
            DataWarning,
            stacklevel=2,
        )
    return found


def index_of(url: str, cache: str = "") -> ShardIndex:
    """The index of one shard; see ``indexes``."""
    place = url
    if cache and storage.is_remote(url):
        place = str(storage.copy_to(url, Path(cache), _copy_name(url)))
    size = storage.num_bytes(place)
    known = _known(url, place, size)
    if known is not None:
        return known
    made = make_index(url, place, size)
    if storage.is_remote(place):
        return dataclasses.replace(made, was_read=True)
    write_index(made)
    return made


def make_index(url: str, place: str, num_bytes: int) -> ShardIndex:
    """Find the samples of a shard; a remote one is read whole for it.

    Raises:
        TrainingError: it is damaged or compressed.
    """
    if num_bytes:
        check_plain(url, storage.read_part(place, 0, min(num_bytes, 8)))
    with storage.stream_of(place) as stream:
        found = scan(url, stream, seekable=not storage.is_remote(place))
    return index_from(url, place, num_bytes, found)


def index_from(url: str, place: str, num_bytes: int, found: Scan) -> ShardIndex:
    """The index of what was found in a shard.

    Raises:
        TrainingError: the shard ends early or goes on with something else than files.
    """
    if not _ends(place, num_bytes, found.end):
        raise TrainingError(f"{url}: is damaged at byte {found.end}; make it again")
    offsets = np.array([*found.offsets, found.stop], dtype=np.int64)
    text = None if found.text is None else _text(url, found.text)
    return ShardIndex(url=url, place=place, num_bytes=num_bytes, offsets=offsets, text=text)


def _ends(place: str, num_bytes: int, end: int) -> bool:
    """Whether the files end where none was found; tarfile takes a damaged header for the end."""
    if storage.is_remote(place):
        # Behind the end are zeros to the next multiple of a record; not every server sends parts.
        return end <= num_bytes <= end + tarfile.RECORDSIZE
    return end <= num_bytes and not storage.read_part(place, end, min(end + 512, num_bytes)).strip(
        b"\0"
    )


def write_index(index: ShardIndex) -> bool:
    """Keep the index beside the shard; False where that folder may not be written."""
    try:
        atomic_write_text(index.place + SUFFIX, index.to_json())
    except Minit2iError:
        return False
    return True


def _known(url: str, place: str, num_bytes: int) -> ShardIndex | None:
    """What the index file says, unless it is of another file."""
    data = storage.read_if_there(place + SUFFIX)
    if data is None or _is_older(place):
        return None
    try:
        values = json.loads(data)
        offsets = np.array(values["offsets"], dtype=np.int64)
        fits = (values["format"], values["version"]) == (FORMAT, VERSION)
        fits = fits and values["bytes"] == num_bytes and offsets.ndim == 1 and len(offsets) > 0
        fits = fits and bool((np.diff(offsets) > 0).all()) and int(offsets[-1]) <= num_bytes
        text = values["text"]
        fits = fits and offsets[0] >= 0 and (text is None or isinstance(text, dict))
    except (KeyError, OverflowError, TypeError, ValueError):
        return None
    if not fits:
        return None
    return ShardIndex(url=url, place=place, num_bytes=num_bytes, offsets=offsets, text=text)


def _is_older(place: str) -> bool:
    if storage.is_remote(place):
        return False
    return os.stat(place + SUFFIX).st_mtime_ns < os.stat(place).st_mtime_ns


def _copy_name(url: str) -> str:
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return f"{digest}-{PurePosixPath(url).name}"


def _text(url: str, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except ValueError as error:
        raise TrainingError(f"{url}: its member __text__ is not JSON; embed it again") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{url}: its member __text__ is no JSON object; embed it again")
    return values
