"""minit2i data: pack, check and embed shards of images and captions."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.limits import check_least
from minit2i_deploy.cli.support.options.shard_options import add_shard
from minit2i_deploy.cli.support.options.shared_arguments import add_json, integer
from minit2i_deploy.cli.support.parser import add_task
from minit2i_deploy.cli.support.sharded.embed_data_shards import (
    EmbedShardsOptions,
    embed_shards_of,
)
from minit2i_deploy.cli.support.sharded.pack_shards import PackOptions, pack_one_shard
from minit2i_deploy.errors import Minit2iError, UsageError

if TYPE_CHECKING:
    from minit2i_deploy.progress import Progress
    from minit2i_deploy.tokenizer import Tokenizer
    from minit2i_deploy.training.data.check import DataReport
    from minit2i_deploy.training.data.pack import PackResult

_PACK_EPILOG: Final = """\
The caption of an image is the .txt file of the same name, or, with a file
metadata.jsonl in the folder, its line {"file_name": ..., "text": ...}. Image files
are packed byte for byte. With --shard, --bad-limit is of each tar file, and
minit2i shards status OUT counts those that are done.

examples:
  minit2i data pack my-images shards
  minit2i data pack --shapes 10000 --size 64 shards
  minit2i data pack my-images shards --shard 0/4
"""
_CHECK_EPILOG: Final = """\
A folder of images and captions is read as pack would read it, before it is packed.
The exit code is 1 if more samples are bad than --bad-limit allows, or if a shard
is corrupt. Quote names with braces, which some shells expand themselves.

examples:
  minit2i data check my-images
  minit2i data check "shards/{000000..000009}.tar"
  minit2i data check "shards/*.tar" --tokenizer flan-t5-large --json
  minit2i data check https://example.org/cc12m-0000.tar --caption json:caption
"""
_EMBED_EPILOG: Final = """\
Embeddings are stored at the real tokens only: tokens x width x 4 bytes per caption,
or half of it with --dtype bf16. Training on such shards needs the same encoder,
tokenizer and length in its recipe. After an interruption the same command embeds
the missing shards. With --shard, --bad-limit is of each shard, and
minit2i shards status OUT counts those that are done.

examples:
  minit2i data embed "shards/*.tar" embedded --text-encoder flan-t5-large
  minit2i data embed "shards/*.tar" embedded --text-encoder flan-t5-large --shard 0/4
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckOptions:
    """Options of minit2i data check."""

    shards: tuple[str, ...]
    caption: str
    min_side: int
    tokenizer: Path | None
    prompt_length: int
    index: bool
    bad_limit: int
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the three tasks."""
    parser.description = "Pack, check and embed shards of images and captions for training."
    tasks = parser.add_subparsers(metavar="TASK", title="tasks", required=True)
    pack = add_task(
        tasks,
        "pack",
        run_pack,
        help="pack a folder into shards",
        description="Pack images and captions into shards.",
        epilog=_PACK_EPILOG,
    )
    _configure_pack(pack)
    check = add_task(
        tasks,
        "check",
        run_check,
        help="read shards or a folder of images and report what is in them",
        description="Read every sample of shards as training would, or every image of a folder as "
        "pack would, and report.",
        epilog=_CHECK_EPILOG,
    )
    _configure_check(check)
    embed = add_task(
        tasks,
        "embed",
        run_embed,
        help="add the text encoder's embeddings",
        description="Copy shards and add the frozen encoder's embedding of each caption, so that "
        "training runs without the encoder.",
        epilog=_EMBED_EPILOG,
    )
    _configure_embed(embed)


def _configure_pack(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        f"{parser.prog} [options] FOLDER OUT\n       {parser.prog} [options] --shapes N OUT"
    )
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        type=Path,
        nargs="+",
        help="folder of images, and new folder for the shards",
    )
    parser.add_argument(
        "--shapes", metavar="N", type=integer, help="draw N images of shapes in place of a folder"
    )
    parser.add_argument(
        "--size", metavar="PX", type=integer, help="side of the drawn images (default 64)"
    )
    parser.add_argument("--seed", metavar="N", type=integer, help="of the drawn images (default 0)")
    parser.add_argument(
        "--per-shard",
        metavar="N",
        type=integer,
        default=1000,
        help="samples per shard (default 1000)",
    )
    _add_bad_limit(parser, "images that may be skipped because they are bad")
    add_shard(parser)
    add_json(parser)


def _configure_check(parser: argparse.ArgumentParser) -> None:
    _add_shards(parser, "tar files by path or URL, with {000..099}, * and ?; or a folder of images")
    parser.add_argument(
        "--min-side",
        metavar="PX",
        type=integer,
        default=0,
        help="count smaller images as bad samples",
    )
    parser.add_argument(
        "--tokenizer", metavar="DIR", type=Path, help="tokenizer to count the captions' tokens with"
    )
    _add_prompt_length(parser)
    parser.add_argument(
        "--index", action="store_true", help="write the index of each local shard beside it"
    )
    _add_bad_limit(parser, "bad samples that are accepted")
    add_json(parser)


def _configure_embed(parser: argparse.ArgumentParser) -> None:
    _add_shards(parser, "tar files by path or URL, with {000..099}, * and ?")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder for the new shards")
    parser.add_argument(
        "--text-encoder",
        metavar="DIR",
        type=Path,
        required=True,
        help="T5 encoder in Hugging Face form",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR",
        type=Path,
        help="its tokenizer (default: tokenizer/ in the encoder, itself or ../tokenizer)",
    )
    _add_prompt_length(parser)
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16"),
        default="fp32",
        help="fp32 (default) keeps every bit; bf16 rounds once and takes half the space",
    )
    _add_bad_limit(parser, "samples without a usable caption that may be skipped")
    add_shard(parser)
    add_json(parser)


def _add_shards(parser: argparse.ArgumentParser, description: str) -> None:
    parser.add_argument("shards", metavar="SHARDS", nargs="+", help=description)
    parser.add_argument(
        "--caption",
        metavar="KEY",
        default="txt",
        help="file of a sample that holds its caption: txt (default) or another suffix, or "
        "json:FIELD",
    )


def _add_prompt_length(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt-length",
        metavar="N",
        type=integer,
        default=256,
        help="prompt length of the model in tokens (default 256)",
    )


def _add_bad_limit(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--bad-limit", metavar="N", type=integer, default=0, help=f"{what} (default 0)"
    )


def run_pack(options: PackOptions) -> None:
    """Pack, and report what was skipped."""
    from minit2i_deploy.progress import ProgressLine

    _check_pack(options)
    if options.shard is not None:
        _print(options.json, *pack_one_shard(options, options.shard))
        return
    with ProgressLine("pack") as line:
        packed = _pack(options, line)
    out = options.folders[-1]
    for item in packed.bad:
        sys.stderr.write(f"minit2i: warning: {item}; skipped\n")
    values = {
        "folder": str(out),
        "shards": packed.num_shards,
        "samples": packed.num_samples,
        "left_out": len(packed.bad),
    }
    _print(
        options.json, values, f"{out}  {packed.num_samples} samples in {packed.num_shards} shards"
    )


def _pack(options: PackOptions, progress: Progress) -> PackResult:
    from minit2i_deploy.training.data.pack import pack_folder, pack_shapes

    common: dict[str, Any] = {"per_shard": options.per_shard, "progress": progress}
    if options.shapes is None:
        return pack_folder(*options.folders, bad_limit=options.bad_limit, **common)
    return pack_shapes(
        options.folders[0],
        num_samples=options.shapes,
        seed=options.seed or 0,
        size=64 if options.size is None else options.size,
        **common,
    )


def _check_pack(options: PackOptions) -> None:
    check_least("--bad-limit", options.bad_limit, 0)
    check_least("--per-shard", options.per_shard, 1)
    is_drawn = options.shapes is not None
    if len(options.folders) != (1 if is_drawn else 2):
        expected = "--shapes N OUT" if is_drawn else "FOLDER OUT"
        raise UsageError(f"expected {expected}, got {len(options.folders)} folders")
    for name in ("size", "seed"):
        if getattr(options, name) is not None and not is_drawn:
            raise UsageError(f"--{name} requires --shapes")


def run_check(options: CheckOptions) -> None:
    """Read and report; the exit code is 1 if a shard is corrupt or too many samples are bad."""
    from minit2i_deploy.cli.support.sharded.shard_report import report_text, report_values
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.tokenizer import Tokenizer

    check_least("--bad-limit", options.bad_limit, 0)
    tokenizer = None
    if options.tokenizer is not None:
        tokenizer = Tokenizer.open(options.tokenizer, options.prompt_length)
    with ProgressLine("check") as line:
        report = _check(options, tokenizer, line)
    _print(options.json, report_values(report), report_text(report))
    if report.corrupt:
        raise Minit2iError(next(iter(report.corrupt.values())))
    if report.num_bad > options.bad_limit:
        raise Minit2iError(
            f"{report.num_bad} of {report.num_samples} samples are bad, but --bad-limit is "
            f"{options.bad_limit}; fix them, or raise it and data.bad_limit in the recipe"
        )


def _check(options: CheckOptions, tokenizer: Tokenizer | None, progress: Progress) -> DataReport:
    from minit2i_deploy.training.data.check import check_folder, check_shards
    from minit2i_deploy.training.data.shards.storage import expand_names
    from minit2i_deploy.training.recipe.data import SourceRecipe

    folders = [name for name in options.shards if Path(name).is_dir()]
    if folders:
        _refuse_with_folder(options, folders[0])
        return check_folder(
            Path(folders[0]), min_side=options.min_side, tokenizer=tokenizer, progress=progress
        )
    source = SourceRecipe(shards=options.shards, caption=options.caption, min_side=options.min_side)
    return check_shards(
        expand_names(options.shards),
        source,
        tokenizer=tokenizer,
        keep_index=options.index,
        progress=progress,
    )


def _refuse_with_folder(options: CheckOptions, folder: str) -> None:
    if len(options.shards) > 1:
        raise UsageError(f"{folder}: is a folder; check it alone, got {len(options.shards)} names")
    if options.caption != "txt" or options.index:
        name = "--index" if options.index else "--caption"
        raise UsageError(f"{folder}: is a folder, and {name} is for shards; omit it")


def run_embed(options: EmbedShardsOptions) -> None:
    """Embed the shards that are missing, and report what was skipped."""
    check_least("--bad-limit", options.bad_limit, 0)
    _print(options.json, *embed_shards_of(options))


def _print(as_json: bool, values: dict[str, Any], text: str) -> None:
    from minit2i_deploy.cli.support.formatting import json_text

    print(json_text(values) if as_json else text)
