"""Bring the blocks of several folders of one job together, where workers shared no disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.io.files import atomic_file, sha256_file, write_error
from minit2i_deploy.shards.blocks import BlockMark, is_done, read_mark, write_mark
from minit2i_deploy.shards.job import Job


def gather_blocks(folders: Sequence[Path], target: Path) -> int:
    """Copy the blocks that ``target`` lacks from folders of the same job.

    Args:
        folders: jobs that are the same, each with some of the blocks.
        target: folder of the job; may be one of them.

    Returns:
        number of blocks that were copied.

    Raises:
        UsageError: the folders are of different jobs, or the target may not be written.
        Minit2iError: a file is corrupt, or the disk failed or is full.
    """
    jobs = [Job.read(folder) for folder in folders]
    for job in jobs:
        job.join(target)
    job, num_copied = jobs[0], 0
    data = job.data_folder(target)
    for block in range(job.num_blocks):
        if is_done(target, data, block):
            continue
        for folder in folders:
            source = job.data_folder(folder)
            mark = read_mark(folder, block) if is_done(folder, source, block) else None
            if mark is not None:
                _copy_block(source, data, mark)
                write_mark(target, data, block, mark)
                num_copied += 1
                break
    return num_copied


def _copy_block(source: Path, data: Path, mark: BlockMark) -> None:
    for name, item in mark.files.items():
        path = data / name
        if not path.resolve().is_relative_to(data.resolve()):
            raise UsageError(f"{name}: leads out of {data}; the folder is not of a sharded run")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(path, error) from error
        with atomic_file(path) as partial:
            shutil.copyfile(source / name, partial)
        if sha256_file(path) != item.sha256:
            path.unlink()
            raise Minit2iError(
                f"{source / name}: does not have the sha256 of its mark; run minit2i shards "
                "verify --repair on its folder, then that job again"
            )
