"""Embedding of shards by any number of processes: each shard is a block."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.shards.blocks import BlockResult
from minit2i_deploy.shards.job import BESIDE, JOB_FILE, Job, job_folder
from minit2i_deploy.shards.shard import Shard
from minit2i_deploy.shards.work import ShardReport, run_shard
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.data.shards import storage
from minit2i_deploy.training.data.shards.embed import EmbedResult, embedded_samples, shard_targets
from minit2i_deploy.training.data.shards.embeddings import EmbeddingInfo
from minit2i_deploy.training.data.shards.index import SUFFIX
from minit2i_deploy.training.data.shards.writer import write_shard

KIND: Final = "data embed"


def embed_shards_shard(
    urls: Sequence[str],
    out: Path,
    text: CaptionEncoder,
    info: EmbeddingInfo,
    shard: Shard,
    *,
    bad_limit: int,
    progress: Progress = no_progress,
) -> ShardReport:
    """Embed this process's share of shards; the files are those of ``embed_shards``.

    Args:
        urls: shards by path or address; their names must differ.
        out: folder of the new shards.
        text: the frozen encoder.
        info: description of the embeddings.
        shard: which of the shards.
        bad_limit: samples of one shard, without a usable caption, that may be excluded.
        progress: called with the share of these shards that is done.

    Raises:
        UsageError: two shards of one name, or ``out`` is of another job or of none.
        TrainingError: a shard is missing or corrupt, or more bad samples in it than the limit.
    """
    targets = shard_targets(urls, out)

    def make(block: int, items: range, progress: Progress) -> BlockResult:
        result, target = EmbedResult(), targets[block]
        samples = embedded_samples(urls[block], text, info, result, bad_limit, progress)
        write_shard(target, samples, info.to_json())
        index = f"{target.name}{SUFFIX}"
        if not (out / index).is_file():
            raise Minit2iError(f"{out / index}: cannot be written; free some space there")
        return BlockResult(
            files=[target.name, index],
            counts={"samples": result.num_samples, "tokens": result.num_tokens},
            problems=[str(sample) for sample in result.bad],
        )

    job, folder = _job(urls, info), job_folder(out)
    _refuse_files_of_no_job(targets, folder)
    return run_shard(job, folder, shard, make, progress=progress)


def _job(urls: Sequence[str], info: EmbeddingInfo) -> Job:
    """Names and sizes stand for the input: to hash it all would take as long as to copy it."""
    digest = hashlib.sha256()
    for url in urls:
        digest.update(f"{url.rpartition('/')[2]}\0{storage.size_bytes(url)}\n".encode())
    return Job(
        kind=KIND,
        bundle="",
        input_sha256=digest.hexdigest(),
        num_items=len(urls),
        block_items=1,
        data=BESIDE,
        settings=dataclasses.asdict(info),
    )


def _refuse_files_of_no_job(targets: Sequence[Path], folder: Path) -> None:
    # In this order: another process stores the job before it writes its first shard.
    existing = next((target for target in targets if target.exists()), None)
    if existing is not None and not (folder / JOB_FILE).exists():
        raise UsageError(
            f"{existing}: was written without --shard; go on without it, or name another folder"
        )
