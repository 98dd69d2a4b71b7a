"""minit2i data pack --shard: one process's tar files of a folder of images."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minit2i_deploy.cli.support.options.shard_options import shard_of_option
from minit2i_deploy.cli.support.sharded.embed_shards import report_values
from minit2i_deploy.shards.job import job_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class PackOptions:
    """Options of minit2i data pack; None where one was not given."""

    folders: tuple[Path, ...]
    shapes: int | None
    size: int | None
    seed: int | None
    per_shard: int
    bad_limit: int
    shard: str | None
    json: bool


def pack_one_shard(options: PackOptions, shard_text: str) -> tuple[dict[str, Any], str]:
    """Pack the missing tar files of a shard; what was done, for programs and for people."""
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.training.data.pack_blocks import pack_folder_shard, pack_shapes_shard

    shard, out = shard_of_option(shard_text), options.folders[-1]
    with ProgressLine(f"pack {shard}") as progress:
        common: dict[str, Any] = {"per_shard": options.per_shard, "progress": progress}
        if options.shapes is None:
            folder = options.folders[0]
            report = pack_folder_shard(folder, out, shard, bad_limit=options.bad_limit, **common)
        else:
            report = pack_shapes_shard(
                out,
                shard,
                num_samples=options.shapes,
                seed=options.seed or 0,
                size=64 if options.size is None else options.size,
                **common,
            )
    for problem in report.problems:
        sys.stderr.write(f"minit2i: warning: {problem}; skipped\n")
    num_packed = report.num_blocks - report.num_before
    text = f"{out}  {report.num_items} images in {num_packed} shards"
    if report.num_before:
        text += f"; {report.num_before} were there before"
    return report_values(report, job_folder(out)), text
