"""Embed a file of texts in blocks of lines, each a part file, by any number of processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import Minit2iError, PromptTruncatedWarning, UsageError
from minit2i_deploy.io.files import atomic_file
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.shards.blocks import BlockResult
from minit2i_deploy.shards.check import JobStatus, marks
from minit2i_deploy.shards.job import INSIDE, Job
from minit2i_deploy.shards.line_blocks import LineBlocks
from minit2i_deploy.shards.shard import Shard
from minit2i_deploy.shards.work import MakeBlock, ShardReport, run_shard
from minit2i_deploy.text.embed_job import MAX_REPORTED, make_part
from minit2i_deploy.text.embedding_files import Contents, Sizes, write_parts
from minit2i_deploy.text.embedding_parquet import read_parquet, write_parquet
from minit2i_deploy.text.embedding_parts import Part
from minit2i_deploy.text.encoder import SequenceEncoder

KIND: Final = "embed"
PARQUET, NPZ = ".parquet", ".npz"


def embed_job(
    bundle: Bundle,
    lines: LineBlocks,
    contents: Contents,
    *,
    field: str | None,
    batch_size: int,
    suffix: str,
    engine: Mapping[str, Any],
) -> Job:
    """The job of embedding a file.

    Args:
        bundle: whose encoder runs.
        lines: of the file, in blocks.
        contents: arrays to write.
        field: name of the text in each line's JSON object; None for plain lines.
        batch_size: most texts in one call of the encoder; the last bits depend on it.
        suffix: of the part files, PARQUET or NPZ.
        engine: what else changes the last bits, as plain values.
    """
    return Job(
        kind=KIND,
        bundle=bundle.digest,
        input_sha256=lines.sha256,
        num_items=lines.num_lines,
        block_items=lines.block_lines,
        data=INSIDE,
        settings={
            "field": field,
            "tokens": contents.tokens,
            "pooled": contents.pooled,
            "batch": batch_size,
            "suffix": suffix,
            **engine,
        },
    )


def embed_shard(
    bundle: Bundle,
    runtime: Runtime,
    lines: LineBlocks,
    job: Job,
    folder: Path,
    shard: Shard,
    *,
    progress: Progress = no_progress,
) -> ShardReport:
    """Embed the missing blocks of a shard; arguments and errors as for ``run_shard``.

    Args:
        bundle: whose encoder runs.
        runtime: an open runtime of that bundle.
        lines: of the file.
        job: from ``embed_job``.
        folder: of the job.
        shard: which blocks.
        progress: called with the share of this shard's blocks.

    Raises:
        UsageError: the folder is of another job, or the file cannot be read.
        RuntimeFailure: the engine failed.
    """
    return run_shard(
        job, folder, shard, block_maker(bundle, runtime, lines, job, folder), progress=progress
    )


def block_maker(
    bundle: Bundle, runtime: Runtime, lines: LineBlocks, job: Job, folder: Path
) -> MakeBlock:
    """Writes the part of one block; arguments as for ``embed_shard``."""
    settings: Any = job.settings
    contents = contents_of(job)
    # No cache: the last bits of a text depend on its batch, which must not depend on the blocks
    # that this process made before.
    encoder = SequenceEncoder(bundle, runtime, batch_size=settings["batch"], cache_bytes=0)

    def make(block: int, items: range, progress: Progress) -> BlockResult:
        read = lines.read(block, settings["field"])
        good = [line for line in read if line.text is not None]
        problems = [f"line {line.number}: {line.problem}" for line in read if line.text is None]
        if not good:
            return BlockResult(counts={"texts": 0}, problems=problems)
        part, truncations = make_part(encoder, good, contents)
        for number, notice in truncations[:MAX_REPORTED]:
            warnings.warn(f"line {number}: {notice}", PromptTruncatedWarning, stacklevel=2)
        name = f"part-{block:06d}{settings['suffix']}"
        save_part(folder / name, part, contents)
        counts = {
            "texts": len(part),
            "tokens": int(part.lengths.sum()),
            "truncated": len(truncations),
            "max_tokens": int(part.lengths.max()),
            "max_width": _width(part),
        }
        return BlockResult(files=[name], counts=counts, problems=problems)

    return make


def contents_of(job: Job) -> Contents:
    """The arrays that a job writes."""
    settings: Any = job.settings
    return Contents(tokens=settings["tokens"], pooled=settings["pooled"], lines=True)


def merge_parts(status: JobStatus, target: Path) -> dict[str, list[int]]:
    """Write the parts of a complete job as one file.

    Args:
        status: of the job.
        target: file of a suffix in ``embedding_files.SUFFIXES``, replaced if it exists.

    Returns:
        names and shapes of the arrays.

    Raises:
        UsageError: no line has a text, or the target may not be written.
        Minit2iError: blocks are missing or corrupt, or the disk failed or is full.
    """
    status.require_complete()
    if not status.counts.get("texts"):
        raise UsageError(f"{status.folder}: no line has a text; nothing was written")
    sizes = Sizes(
        num_texts=status.counts["texts"],
        longest=status.counts["max_tokens"],
        width=status.counts["max_width"],
    )

    def parts() -> Iterator[Part]:
        for mark in marks(status):
            for name in mark.files:
                yield load_part(status.folder / name)

    return write_parts(target, parts, sizes, contents_of(status.job))


def load_part(path: Path) -> Part:
    """Read a part in either form.

    Raises:
        Minit2iError: the file is missing or corrupt.
    """
    return read_parquet(path) if path.suffix == PARQUET else Part.load(path)


def save_part(path: Path, part: Part, contents: Contents) -> None:
    """Write a part in the form of the path's suffix.

    Raises:
        Minit2iError: another suffix, or the disk failed or is full.
    """
    if path.suffix == NPZ:
        part.save(path)
    elif path.suffix == PARQUET:
        with atomic_file(path) as partial:
            write_parquet(partial, iter([part]), _width(part), contents.tokens, contents.pooled)
    else:
        raise Minit2iError(f"{path}: expected a {NPZ} or {PARQUET} part")


def _width(part: Part) -> int:
    return part.tokens.shape[1] if part.pooled is None else part.pooled.shape[1]
