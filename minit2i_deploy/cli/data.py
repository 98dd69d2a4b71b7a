"""minit2i data: shards of pictures and captions, made, checked and embedded."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.options import add_json
from minit2i_deploy.errors import Minit2iError, UsageError

if TYPE_CHECKING:
    from minit2i_deploy.progress import Progress
    from minit2i_deploy.training.data.pack import PackResult

_PACK_EPILOG: Final = """\
A caption is the file of the picture's name that ends in .txt, or, with a file
metadata.jsonl in the folder, its line {"file_name": ..., "text": ...}. Pictures
stay the bytes they are.

examples:
  minit2i data pack my-pictures shards
  minit2i data pack --shapes 10000 --size 64 shards
"""
_CHECK_EPILOG: Final = """\
The exit code is 1 if more samples are bad than --bad-limit allows, or if a shard
is damaged. Quote names with braces, which some terminals expand themselves.

examples:
  minit2i data check "shards/{000000..000009}.tar"
  minit2i data check "shards/*.tar" --tokenizer flan-t5-large --json
  minit2i data check https://example.org/cc12m-0000.tar --caption json:caption
"""
_EMBED_EPILOG: Final = """\
Values are stored at the real tokens only: tokens x width x 4 bytes a caption, or
half of it with --dtype bf16. A run on such shards needs the same encoder,
tokenizer and length in its recipe. After an interruption the same command goes on
with the shards that are missing.

examples:
  minit2i data embed "shards/*.tar" embedded --text-encoder flan-t5-large
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the three tasks."""
    parser.description = "Make, check and embed shards of pictures and captions for training."
    tasks = parser.add_subparsers(metavar="TASK", title="tasks", required=True)

    def task(name: str, text: str, description: str, epilog: str) -> argparse.ArgumentParser:
        child = tasks.add_parser(
            name,
            help=text,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=parser.formatter_class,
        )
        child.set_defaults(task=_TASKS[name])
        return child

    _configure_pack(
        task("pack", "a folder to shards", "Pack pictures and captions into shards.", _PACK_EPILOG)
    )
    _configure_check(
        task(
            "check",
            "read shards and report",
            "Read every sample of some shards as training would, and report.",
            _CHECK_EPILOG,
        )
    )
    _configure_embed(
        task(
            "embed",
            "add the text encoder's values",
            "Copy shards and add the frozen encoder's values of each caption, so that training "
            "runs without the encoder.",
            _EMBED_EPILOG,
        )
    )


def _configure_pack(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        f"{parser.prog} [options] FOLDER OUT\n       {parser.prog} [options] --shapes N OUT"
    )
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        type=Path,
        nargs="+",
        help="folder of pictures, and the new folder of shards",
    )
    parser.add_argument(
        "--shapes", metavar="N", type=int, help="draw N pictures of shapes in place of a folder"
    )
    parser.add_argument(
        "--size", metavar="PX", type=int, help="side of the drawn pictures (default 64)"
    )
    parser.add_argument("--seed", metavar="N", type=int, help="of the drawn pictures (default 0)")
    parser.add_argument(
        "--per-shard", metavar="N", type=int, default=1000, help="samples a shard (default 1000)"
    )
    _add_bad_limit(parser, "pictures that may be left out")
    add_json(parser)


def _configure_check(parser: argparse.ArgumentParser) -> None:
    _add_shards(parser)
    parser.add_argument(
        "--min-side", metavar="PX", type=int, default=0, help="smaller pictures are bad samples"
    )
    parser.add_argument(
        "--tokenizer", metavar="DIR", type=Path, help="count the captions' tokens with it"
    )
    _add_prompt_length(parser)
    parser.add_argument(
        "--index", action="store_true", help="write the index of each local shard beside it"
    )
    _add_bad_limit(parser, "bad samples that are no failure")
    add_json(parser)


def _configure_embed(parser: argparse.ArgumentParser) -> None:
    _add_shards(parser)
    parser.add_argument("output", metavar="OUT", type=Path, help="folder of the new shards")
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
        help="its tokenizer (default: tokenizer/ in the encoder, it itself or ../tokenizer)",
    )
    _add_prompt_length(parser)
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16"),
        default="fp32",
        help="fp32 (default) keeps every bit; bf16 rounds once and takes half the space",
    )
    _add_bad_limit(parser, "samples without a usable caption that may be left out")
    add_json(parser)


def _add_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shards",
        metavar="SHARDS",
        nargs="+",
        help="tar files by path or address, with {000..099}, * and ?",
    )
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
        type=int,
        default=256,
        help="tokens that the model takes (default 256)",
    )


def _add_bad_limit(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--bad-limit", metavar="N", type=int, default=0, help=f"{what} (default 0)")


def run(options: argparse.Namespace) -> None:
    """Do the task; the exit code is 1 if it found too much that is bad."""
    if options.bad_limit < 0:
        raise UsageError(f"--bad-limit {options.bad_limit} came, but 0 or more is needed")
    options.task(options)


def _pack(options: argparse.Namespace) -> None:
    from minit2i_deploy.progress import ProgressLine

    _check_pack(options)
    with ProgressLine("pack") as line:
        packed = _packed(options, line)
    out = options.folders[-1]
    for item in packed.bad:
        sys.stderr.write(f"minit2i: warning: {item}; left out\n")
    values = {
        "folder": str(out),
        "shards": packed.num_shards,
        "samples": packed.num_samples,
        "left_out": len(packed.bad),
    }
    _print(options, values, f"{out}  {packed.num_samples} samples in {packed.num_shards} shards")


def _packed(options: argparse.Namespace, progress: Progress) -> PackResult:
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


def _check_pack(options: argparse.Namespace) -> None:
    drawn = options.shapes is not None
    if len(options.folders) != (1 if drawn else 2):
        wanted = "--shapes N OUT" if drawn else "FOLDER OUT"
        raise UsageError(f"{len(options.folders)} folders came; give {wanted}")
    for name in ("size", "seed"):
        if getattr(options, name) is not None and not drawn:
            raise UsageError(f"--{name} came without --shapes; it belongs to drawn pictures")
    if options.per_shard < 1:
        raise UsageError(f"--per-shard {options.per_shard} came, but 1 or more is needed")


def _check(options: argparse.Namespace) -> None:
    from minit2i_deploy.cli.support.shard_report import report_text, report_values
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.tokenizer import Tokenizer
    from minit2i_deploy.training.data.check import check_shards
    from minit2i_deploy.training.data.shards.storage import expand_names
    from minit2i_deploy.training.recipe.data import SourceRecipe

    urls = expand_names(options.shards)
    source = SourceRecipe(
        shards=tuple(options.shards), caption=options.caption, min_side=options.min_side
    )
    tokenizer = None
    if options.tokenizer is not None:
        tokenizer = Tokenizer.open(options.tokenizer, options.prompt_length)
    with ProgressLine("check") as line:
        report = check_shards(
            urls,
            source,
            tokenizer=tokenizer,
            keep_index=options.index,
            progress=line,
        )
    _print(options, report_values(report), report_text(report))
    if report.corrupt:
        raise Minit2iError(next(iter(report.corrupt.values())))
    if report.num_bad > options.bad_limit:
        raise Minit2iError(
            f"{report.num_bad} of {report.num_samples} samples are bad and --bad-limit is "
            f"{options.bad_limit}; mend them, or raise it and data.bad_limit in the recipe"
        )


def _embed(options: argparse.Namespace) -> None:
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.tokenizer import find_tokenizer
    from minit2i_deploy.training.data.shards.embed import embed_shards, open_encoder
    from minit2i_deploy.training.data.shards.storage import expand_names

    urls = expand_names(options.shards)
    tokenizer = options.tokenizer
    # Without an encoder there is more to say than that it has no tokenizer.
    if tokenizer is None and (options.text_encoder / "config.json").is_file():
        tokenizer = find_tokenizer(options.text_encoder)
    text, info = open_encoder(
        options.text_encoder,
        tokenizer or options.text_encoder,
        prompt_length=options.prompt_length,
        caption=options.caption,
        dtype=options.dtype,
    )
    with ProgressLine("embed") as line:
        done = embed_shards(
            urls,
            options.output,
            text,
            info,
            bad_limit=options.bad_limit,
            progress=line,
        )
    for item in done.bad:
        sys.stderr.write(f"minit2i: warning: {item}; left out\n")
    values = {
        "folder": str(options.output),
        "shards": done.num_shards,
        "kept": done.num_existing,
        "samples": done.num_samples,
        "tokens": done.num_tokens,
        "left_out": len(done.bad),
    }
    kept = f", {done.num_existing} shards stood there before" if done.num_existing else ""
    _print(
        options,
        values,
        f"{options.output}  {done.num_samples} samples, {done.num_tokens} tokens in "
        f"{done.num_shards} shards{kept}",
    )


_TASKS: Final = {"pack": _pack, "check": _check, "embed": _embed}


def _print(options: argparse.Namespace, values: dict[str, Any], text: str) -> None:
    from minit2i_deploy.cli.support.formatting import json_text

    print(json_text(values) if options.json else text)
