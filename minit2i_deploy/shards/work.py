"""Run one shard of a job: make its blocks that are not there yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minit2i_deploy.io.files import write_error
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.shards.blocks import BlockMark, BlockResult, hashed_files, is_done, write_mark
from minit2i_deploy.shards.job import Job
from minit2i_deploy.shards.shard import Shard

# Makes the files of a block in the data folder: (block, its items, progress) -> what it wrote.
MakeBlock = Callable[[int, range, Progress], BlockResult]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What one shard did.

    Args:
        num_blocks: that it was to make.
        num_before: of those, blocks that were there before.
        num_items: of the blocks that it made.
        num_problems: of the blocks that it made.
        problems: the first of them.
    """

    num_blocks: int
    num_before: int
    num_items: int
    num_problems: int
    problems: tuple[str, ...]


def run_shard(
    job: Job,
    folder: Path,
    shard: Shard,
    make_block: MakeBlock,
    *,
    progress: Progress = no_progress,
    max_problems: int = 20,
) -> ShardReport:
    """Make the missing blocks of a shard, as ``run_blocks``; ``shard`` says which."""
    blocks = shard.blocks(job.num_blocks)
    return run_blocks(job, folder, blocks, make_block, progress=progress, max_problems=max_problems)


def run_blocks(
    job: Job,
    folder: Path,
    blocks: Sequence[int],
    make_block: MakeBlock,
    *,
    progress: Progress = no_progress,
    max_problems: int = 20,
) -> ShardReport:
    """Make those of some blocks that are missing; each is marked when its files are complete.

    The blocks do not depend on the shard, so any number of processes may run, at once or one after
    another, each with a count of shards of its own. Two that make the same block write the same.

    Args:
        job: stored in ``folder`` if that has none.
        folder: of the job.
        blocks: which.
        make_block: writes the files of one block, each atomically.
        progress: called with the share of these blocks.
        max_problems: how many problems the report names.

    Raises:
        UsageError: the folder is of another job, or may not be written.
        Minit2iError: the disk failed or is full, or what ``make_block`` raises; all blocks that
            are done stay.
    """
    job.join(folder)
    data = job.data_folder(folder)
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(data, error) from error
    missing = [block for block in blocks if not is_done(folder, data, block)]
    num_before = len(blocks) - len(missing)
    num_items, problems = 0, list[str]()
    for place, block in enumerate(missing, num_before):
        part = stage_of(progress, place / len(blocks), (place + 1) / len(blocks))
        result = make_block(block, job.items(block), part)
        write_mark(folder, data, block, _mark(job, data, block, result))
        num_items += len(job.items(block))
        problems += result.problems
        part(1.0, f"block {block}")
    return ShardReport(
        num_blocks=len(blocks),
        num_before=num_before,
        num_items=num_items,
        num_problems=len(problems),
        problems=tuple(problems[:max_problems]),
    )


def _mark(job: Job, data: Path, block: int, result: BlockResult) -> BlockMark:
    items = job.items(block)
    return BlockMark(
        bundle=job.bundle,
        start=items.start,
        stop=items.stop,
        files=hashed_files(data, result.files),
        counts=result.counts,
        problems=tuple(result.problems),
    )
