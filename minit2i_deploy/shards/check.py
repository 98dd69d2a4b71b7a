"""How much of a job is done, whether its files are intact, and what has to be made again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.shards.blocks import (
    MARK_SUFFIX,
    MARKS_FOLDER,
    BlockMark,
    is_done,
    mark_path,
    problem_of,
    read_mark,
)
from minit2i_deploy.shards.job import Job, job_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """State of a job.

    Args:
        job: its identity.
        folder: of the job.
        missing: blocks that are not done.
        corrupt: block -> what is wrong with it; only where the files were hashed.
        num_bytes: of all files of the blocks that are done.
        counts: of all blocks that are done.
        num_problems: items that were excluded.
    """

    job: Job
    folder: Path
    missing: tuple[int, ...]
    corrupt: dict[int, str]
    num_bytes: int
    counts: dict[str, int]
    num_problems: int

    @property
    def is_complete(self) -> bool:
        """Whether every block is there and none is known to be corrupt."""
        return not self.missing and not self.corrupt

    def require_complete(self) -> None:
        """Refuse to go on with less.

        Raises:
            Minit2iError: blocks are missing or corrupt.
        """
        if self.corrupt:
            raise Minit2iError(
                f"{next(iter(self.corrupt.values()))}; run minit2i shards verify --repair, then "
                "the same job again"
            )
        if self.missing:
            raise Minit2iError(
                f"{self.folder}: {len(self.missing)} of {self.job.num_blocks} blocks are missing "
                f"({listed_blocks(self.missing)}); run the same job again, with any --shard"
            )


def find_job(path: Path) -> Path:
    """The folder of a job: ``path`` itself, or the one beside the output that it names.

    Raises:
        UsageError: neither is one.
    """
    for folder in (path, job_folder(path)):
        with contextlib.suppress(UsageError):
            Job.read(folder)
            return folder
    Job.read(path)
    raise AssertionError("the line above raises")


def job_status(
    folder: Path, *, hashes: bool = False, progress: Progress = no_progress
) -> JobStatus:
    """Look at every block.

    Args:
        folder: of the job.
        hashes: also hash every file, which reads all of them.
        progress: called with the share of blocks.

    Raises:
        UsageError: the folder has no job.
    """
    job = Job.read(folder)
    data = job.data_folder(folder)
    missing, corrupt, num_bytes, num_problems = [], dict[int, str](), 0, 0
    counts: dict[str, int] = {}
    for block in range(job.num_blocks):
        progress(block / job.num_blocks)
        problem = problem_of(folder, data, block, job.bundle) if hashes else None
        if problem is not None:
            corrupt[block] = problem
        elif not is_done(folder, data, block):
            missing.append(block)
        elif (mark := read_mark(folder, block)) is not None:
            num_bytes += sum(item.bytes for item in mark.files.values())
            num_problems += len(mark.problems)
            _add(counts, mark)
    return JobStatus(
        job=job,
        folder=folder,
        missing=tuple(missing),
        corrupt=corrupt,
        num_bytes=num_bytes,
        counts=counts,
        num_problems=num_problems,
    )


def marks(status: JobStatus) -> Iterator[BlockMark]:
    """The marks of a complete job, in the order of its blocks."""
    for block in range(status.job.num_blocks):
        mark = read_mark(status.folder, block)
        assert mark is not None
        yield mark


def remove_marks(status: JobStatus) -> None:
    """Remove the marks of corrupt blocks, so that the next run makes those again and no other."""
    for block in status.corrupt:
        mark_path(status.folder, block).unlink(missing_ok=True)


def foreign_marks(folder: Path, job: Job) -> list[str]:
    """Marks beyond the last block, which no run of this job wrote."""
    names = sorted(path.name for path in (folder / MARKS_FOLDER).glob(f"*{MARK_SUFFIX}"))
    expected = {mark_path(folder, block).name for block in range(job.num_blocks)}
    return [name for name in names if name not in expected]


def listed_blocks(blocks: tuple[int, ...], most: int = 5) -> str:
    """The first blocks as text."""
    text = ", ".join(str(block) for block in blocks[:most])
    return f"{'block' if len(blocks) == 1 else 'blocks'} {text}{', ..' * (len(blocks) > most)}"


def _add(counts: dict[str, int], mark: BlockMark) -> None:
    for name, value in mark.counts.items():
        # A name that begins with max is a bound, every other one is a sum.
        combine: Callable[[int, int], int] = max if name.startswith("max") else int.__add__
        counts[name] = combine(counts.get(name, 0), value)
