"""Writing of shards, each complete with its index or not at all."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import require
from minit2i_deploy.io.files import atomic_file
from minit2i_deploy.training.data.shards.index import ShardIndex, build_index, write_index
from minit2i_deploy.training.data.shards.tar import TEXT_MEMBER

PER_SHARD: Final = 1000


def write_shard(
    path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]], text: str | None = None
) -> ShardIndex:
    """Write one shard and its index; the same samples make the same bytes.

    Args:
        path: the .tar file, replaced if it exists.
        samples: key without a dot, and suffix to content.
        text: contents of TEXT_MEMBER, for shards with embeddings.

    Raises:
        UsageError: the folder is missing or cannot be written.
        Minit2iError: the disk failed or is full.
    """
    webdataset = require("webdataset", "train")
    with atomic_file(path) as partial, open(partial, "wb") as stream:
        options = {"user": "", "group": "", "mtime": 0, "encoder": False, "compress": False}
        with webdataset.TarWriter(stream, **options) as writer:
            if text is not None:
                _write_text(writer, text)
            for key, members in samples:
                writer.write({"__key__": key, **members})
    index = build_index(str(path), str(path), path.stat().st_size)
    write_index(index)
    return index


def write_shards(
    folder: Path, samples: Iterable[Mapping[str, bytes]], per_shard: int
) -> Iterator[int]:
    """Write samples to 000000.tar, 000001.tar and so on, under keys that are their numbers.

    Yields:
        the number of samples in the shards written so far.
    """
    stream = enumerate(samples)
    count = 0
    for shard in range(10**6):
        first = next(stream, None)
        if first is None:
            return
        part = [first, *islice(stream, per_shard - 1)]
        keyed = ((f"{number:09d}", members) for number, members in part)
        write_shard(folder / f"{shard:06d}.tar", keyed)
        count += len(part)
        yield count


def _write_text(writer: Any, text: str) -> None:
    data = text.encode()
    info = tarfile.TarInfo(TEXT_MEMBER)
    info.size, info.mode = len(data), 0o444
    writer.tarstream.addfile(info, io.BytesIO(data))
