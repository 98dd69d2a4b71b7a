"""minit2i embed --shard: one process's blocks of a file of texts."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.options.engine_options import EngineOptions
from minit2i_deploy.cli.support.options.shard_options import shard_of_option
from minit2i_deploy.errors import Minit2iError, UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.shards.work import ShardReport
    from minit2i_deploy.text.embedding_files import Contents

# A part of so many texts is some megabytes, and a hundred million texts are 25,000 of them.
BLOCK_LINES: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedWork:
    """What is embedded, and how.

    Args:
        input: file of texts.
        field: name of the text in each line's JSON object; None for plain lines.
        output: file that a merge writes.
        contents: its arrays.
        batch: texts encoded at once.
        block_lines: lines of a block.
        shard: --shard as written.
        engine: what runs the encoder.
    """

    input: Path
    field: str | None
    output: Path
    contents: Contents
    batch: int
    block_lines: int
    shard: str
    engine: EngineOptions


def embed_one_shard(bundle: Bundle, work: EmbedWork) -> tuple[ShardReport, Path]:
    """Embed the missing blocks of a shard, and report lines that were skipped.

    Returns:
        what was done, and the folder of the job.
    """
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.shards.job import job_folder
    from minit2i_deploy.shards.line_blocks import LineBlocks
    from minit2i_deploy.text.embed_blocks import NPZ, PARQUET, embed_job, embed_shard

    shard = shard_of_option(work.shard)
    lines = LineBlocks.scan(work.input, work.block_lines)
    job = embed_job(
        bundle,
        lines,
        work.contents,
        field=work.field,
        batch_size=work.batch,
        suffix=PARQUET if work.output.suffix.lower() == PARQUET else NPZ,
        engine=engine_identity(work.engine),
    )
    folder = job_folder(work.output)
    # Before an engine is opened, which may take minutes.
    job.check(folder)
    with ProgressLine(f"embed {shard}") as progress, open_engine(bundle, work.engine) as runtime:
        report = embed_shard(bundle, runtime, lines, job, folder, shard, progress=progress)
    return report, folder


def engine_identity(engine: EngineOptions) -> dict[str, Any]:
    """What must be equal for two processes to write the same bytes.

    Raises:
        UsageError: an engine that may differ from one process to the next.
    """
    if "auto" in (engine.device, engine.provider):
        raise UsageError(
            "--shard and an engine chosen by auto are mutually exclusive: each process could take "
            "another; name --runtime and --provider"
        )
    return {"engine": engine.spec, "tf32": bool(engine.tf32)}


def report_values(report: ShardReport, folder: Path) -> dict[str, Any]:
    """The report for programs."""
    return {
        "folder": str(folder),
        "blocks": report.num_blocks,
        "before": report.num_before,
        "items": report.num_items,
        "skipped": report.num_problems,
        "problems": list(report.problems),
    }


def print_report(report: ShardReport, folder: Path, *, as_json: bool, place: str) -> None:
    """Print it; items without what they need are a failure at the end.

    Raises:
        Minit2iError: some were skipped.
    """
    from minit2i_deploy.cli.support.formatting import json_text

    for problem in report.problems:
        sys.stderr.write(f"minit2i: warning: {problem}; skipped\n")
    values: Mapping[str, Any] = report_values(report, folder)
    made = report.num_blocks - report.num_before
    text = f"{folder}  {made} blocks, {report.num_items} items"
    if report.num_before:
        text += f"; {report.num_before} blocks were done before"
    print(json_text(values) if as_json else text)
    if report.num_problems:
        raise Minit2iError(f"{place}: skipped {report.num_problems} lines without a text")
