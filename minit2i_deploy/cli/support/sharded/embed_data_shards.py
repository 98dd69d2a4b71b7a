"""minit2i data embed: embeddings in copies of shards, by one process or by several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minit2i_deploy.cli.support.options.shard_options import shard_of_option
from minit2i_deploy.cli.support.sharded.embed_shards import report_values

if TYPE_CHECKING:
    from minit2i_deploy.training.caption_encoder import CaptionEncoder
    from minit2i_deploy.training.data.shards.embeddings import EmbeddingInfo

Printed = tuple[dict[str, Any], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedShardsOptions:
    """Options of minit2i data embed; None where one was not given."""

    shards: tuple[str, ...]
    output: Path
    caption: str
    text_encoder: Path
    tokenizer: Path | None
    prompt_length: int
    dtype: str
    bad_limit: int
    shard: str | None
    json: bool


def embed_shards_of(options: EmbedShardsOptions) -> Printed:
    """Embed the shards that are missing; what was done, for programs and for people."""
    from minit2i_deploy.training.data.shards.storage import expand_names

    # Before the encoder is opened, which takes a while.
    shard = None if options.shard is None else shard_of_option(options.shard)
    urls = expand_names(options.shards)
    text, info = _open_encoder(options)
    if shard is None:
        return _embed_all(options, urls, text, info)

    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.shards.job import job_folder
    from minit2i_deploy.training.data.shards.embed_blocks import embed_shards_shard

    out = options.output
    with ProgressLine(f"embed {shard}") as progress:
        report = embed_shards_shard(
            urls, out, text, info, shard, bad_limit=options.bad_limit, progress=progress
        )
    _warn(report.problems)
    line = f"{out}  {report.num_blocks - report.num_before} shards"
    if report.num_before:
        line += f"; {report.num_before} were there before"
    return report_values(report, job_folder(out)), line


def _embed_all(
    options: EmbedShardsOptions, urls: Sequence[str], text: CaptionEncoder, info: EmbeddingInfo
) -> Printed:
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.training.data.shards.embed import embed_shards

    out = options.output
    with ProgressLine("embed") as line:
        done = embed_shards(urls, out, text, info, bad_limit=options.bad_limit, progress=line)
    _warn([str(item) for item in done.bad])
    values = {
        "folder": str(out),
        "shards": done.num_shards,
        "kept": done.num_existing,
        "samples": done.num_samples,
        "tokens": done.num_tokens,
        "left_out": len(done.bad),
    }
    existed = f", {done.num_existing} of them from before" if done.num_existing else ""
    return values, (
        f"{out}  {done.num_samples} samples, {done.num_tokens} tokens in "
        f"{done.num_shards} shards{existed}"
    )


def _open_encoder(options: EmbedShardsOptions) -> tuple[CaptionEncoder, EmbeddingInfo]:
    from minit2i_deploy.tokenizer import find_tokenizer
    from minit2i_deploy.training.data.shards.embed import open_encoder

    tokenizer = options.tokenizer
    # A missing encoder is reported by open_encoder, not as a missing tokenizer.
    if tokenizer is None and (options.text_encoder / "config.json").is_file():
        tokenizer = find_tokenizer(options.text_encoder)
    return open_encoder(
        options.text_encoder,
        tokenizer or options.text_encoder,
        prompt_length=options.prompt_length,
        caption=options.caption,
        dtype=options.dtype,
    )


def _warn(problems: Sequence[str]) -> None:
    for problem in problems:
        sys.stderr.write(f"minit2i: warning: {problem}; skipped\n")
