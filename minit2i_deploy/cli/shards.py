"""minit2i shards: state, check and end of work that several processes share."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.options.shared_arguments import add_json
from minit2i_deploy.cli.support.parser import add_task
from minit2i_deploy.errors import Minit2iError, UsageError

if TYPE_CHECKING:
    from minit2i_deploy.shards.check import JobStatus

_STATUS_EPILOG: Final = """\
DIR is the output of a command with --shard, or its folder OUTPUT.shards.

examples:
  minit2i shards status vectors.parquet
"""
_VERIFY_EPILOG: Final = """\
Every file is hashed. The exit code is 1 if a block is missing or corrupt. With
--repair the marks of corrupt blocks are removed: the same job, run again, then
makes those and no other.

examples:
  minit2i shards verify images --repair
"""
_MERGE_EPILOG: Final = """\
Embeddings become one file. Images and training shards stay the files they are:
merge checks that they are complete. With several DIR, from disks of their own,
their blocks are first copied to the first one.

examples:
  minit2i shards merge vectors.parquet
  minit2i shards merge vectors.parquet -o vectors.npz
  minit2i shards merge images worker-1/images worker-2/images
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusOptions:
    """Options of minit2i shards status."""

    folder: Path
    json: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifyBlocksOptions:
    """Options of minit2i shards verify."""

    folder: Path
    repair: bool
    json: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeOptions:
    """Options of minit2i shards merge; None where one was not given."""

    folders: tuple[Path, ...]
    output: Path | None
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the three tasks."""
    parser.description = "Look after work that several processes share by --shard."
    tasks = parser.add_subparsers(metavar="TASK", title="tasks", required=True)
    status = add_task(
        tasks,
        "status",
        run_status,
        help="count the blocks that are done",
        description="Print which blocks of a job are done and which are missing.",
        epilog=_STATUS_EPILOG,
    )
    _add_folder(status)
    add_json(status)
    verify = add_task(
        tasks,
        "verify",
        run_verify,
        help="hash every file of the blocks that are done",
        description="Compare every file of a job with the hash that its block was marked with.",
        epilog=_VERIFY_EPILOG,
    )
    _add_folder(verify)
    verify.add_argument(
        "--repair", action="store_true", help="have corrupt blocks made again by the next run"
    )
    add_json(verify)
    merge = add_task(
        tasks,
        "merge",
        run_merge,
        help="join the blocks of a complete job",
        description="Check that a job is complete, and join its blocks.",
        epilog=_MERGE_EPILOG,
    )
    merge.add_argument(
        "folders", metavar="DIR", type=Path, nargs="+", help="output or .shards folder of the job"
    )
    merge.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="file of embeddings: .npz, .npy or .parquet (default: the output of the job)",
    )
    add_json(merge)


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="output or .shards folder of the job"
    )


def run_status(options: StatusOptions) -> None:
    """Count and print."""
    _print(options.json, _status(options.folder))


def run_verify(options: VerifyBlocksOptions) -> None:
    """Hash and print; the exit code is 1 if a block is missing or corrupt."""
    from minit2i_deploy.shards.check import foreign_marks, remove_marks

    status = _status(options.folder, hashes=True)
    if foreign := foreign_marks(status.folder, status.job):
        raise Minit2iError(
            f"{status.folder}: {foreign[0]} is beyond the last of {status.job.num_blocks} blocks; "
            "remove what no run of this job wrote"
        )
    if options.repair:
        remove_marks(status)
    _print(options.json, status)
    if status.corrupt and options.repair:
        raise Minit2iError(
            f"{len(status.corrupt)} corrupt blocks are no longer marked as done; run the same job "
            "again, with any --shard"
        )
    status.require_complete()


def run_merge(options: MergeOptions) -> None:
    """Gather, hash, join."""
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.shards.check import find_job
    from minit2i_deploy.shards.gather import gather_blocks
    from minit2i_deploy.shards.job import output_of
    from minit2i_deploy.text.embed_blocks import KIND, merge_parts
    from minit2i_deploy.text.embedding_files import check_suffix

    folders = [find_job(folder) for folder in options.folders]
    if len(folders) > 1:
        gather_blocks(folders, folders[0])
    status = _status(folders[0], hashes=True)
    status.require_complete()
    if status.job.kind != KIND:
        if options.output is not None:
            raise UsageError(f"--output is for embeddings; {folders[0]} has {status.job.kind}")
        _print(options.json, status)
        return
    target = options.output or output_of(folders[0])
    check_suffix(target)
    output_paths.output_file(target, target.suffix.lower())
    shapes = merge_parts(status, target)
    _print_shapes(options, target, shapes)


def _status(folder: Path, *, hashes: bool = False) -> JobStatus:
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.shards.check import find_job, job_status

    with ProgressLine("verify" if hashes else "status") as progress:
        return job_status(find_job(folder), hashes=hashes, progress=progress)


def _print(as_json: bool, status: JobStatus) -> None:
    from minit2i_deploy.cli.support.formatting import json_text

    print(json_text(_values(status)) if as_json else _text(status))


def _values(status: JobStatus) -> dict[str, Any]:
    job = status.job
    return {
        "folder": str(status.folder),
        "kind": job.kind,
        "bundle": job.bundle,
        "input_sha256": job.input_sha256,
        "items": job.num_items,
        "block_items": job.block_items,
        "blocks": job.num_blocks,
        "missing": list(status.missing),
        "corrupt": {str(block): text for block, text in status.corrupt.items()},
        "bytes": status.num_bytes,
        "counts": status.counts,
        "problems": status.num_problems,
        "complete": status.is_complete,
    }


def _text(status: JobStatus) -> str:
    from minit2i_deploy.cli.support.formatting import size
    from minit2i_deploy.shards.check import listed_blocks

    job = status.job
    num_done = job.num_blocks - len(status.missing) - len(status.corrupt)
    made_by = f" by bundle {job.bundle[:12]}.." if job.bundle else ""
    lines = [
        f"{status.folder}  {job.kind}{made_by}: {num_done} of {job.num_blocks} blocks of "
        f"{job.block_items} are done, {size(status.num_bytes)}"
    ]
    if status.missing:
        lines.append(f"missing: {len(status.missing)} ({listed_blocks(status.missing)})")
    lines += [f"corrupt: {problem}" for problem in status.corrupt.values()]
    if status.num_problems:
        lines.append(f"excluded: {status.num_problems} items; their blocks' .done files say why")
    return "\n".join(lines)


def _print_shapes(options: MergeOptions, target: Path, shapes: dict[str, list[int]]) -> None:
    from minit2i_deploy.cli.support.formatting import json_text

    if options.json:
        print(json_text({"file": str(target), "shapes": shapes}))
        return
    print(target, " ".join(f"{name} {shape}" for name, shape in shapes.items()), sep="  ")
