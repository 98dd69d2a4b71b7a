"""minit2i embed: texts to the text encoder's embeddings."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.option_hints import bundle_hint, warn_of_single_words
from minit2i_deploy.cli.support.options.engine_options import EngineOptions, add_engine
from minit2i_deploy.cli.support.options.shard_options import add_shard
from minit2i_deploy.cli.support.options.shared_arguments import add_bundle, add_json, integer
from minit2i_deploy.errors import Minit2iError, UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.text.embed_job import JobState, Report
    from minit2i_deploy.text.embedding_files import Contents
    from minit2i_deploy.text.encoder import SequenceEncoder

_STDIN: Final = "-"
_TEXT_SUFFIX, _JSON_SUFFIX = ".txt", ".jsonl"
_EPILOG: Final = """\
The file holds
  values  float32 [texts, tokens, width], zero at padding
  mask    int64 [texts, tokens], 1 at real tokens
  pooled  float32 [texts, width], with --pooled
  line    int64 [texts], line number of each text, with --input
A .npy file holds values; the others are written beside it as NAME.mask.npy and so
on. A .parquet file has a row per text, without padding, with the text itself.

A line of --input without a text is reported and skipped, and the exit code is then
1. After an interruption the same command resumes where it stopped; until the end
the embeddings are kept in FILE.parts.

With --shard the blocks of --window lines go to FILE.shards, as .parquet or .npz;
minit2i shards merge FILE writes the file.

examples:
  minit2i embed my-bundle "a red circle" "a blue square" -o texts.npz
  minit2i embed my-bundle --input captions.jsonl --field caption -o captions.parquet
  cut -f 2 table.tsv | minit2i embed my-bundle - --pooled-only -o vectors.npy
  minit2i embed my-bundle -i captions.txt -o captions.parquet --shard 0/4
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedOptions:
    """Options of minit2i embed; None where one was not given."""

    bundle: str
    texts: tuple[str, ...]
    input: str | None
    field: str | None
    output: Path
    pooled: bool
    pooled_only: bool
    batch: int
    window: int | None
    shard: str | None
    engine: EngineOptions
    json: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """Where texts come from: a file or standard input, and the JSON field in each line of it."""

    place: str
    field: str | None

    @property
    def is_stdin(self) -> bool:
        return self.place == _STDIN

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[BinaryIO, int]]:
        """The stream and its size in bytes, 0 where it has none."""
        if self.is_stdin:
            yield sys.stdin.buffer, 0
            return
        try:
            stream = open(self.place, "rb")
            num_bytes = Path(self.place).stat().st_size
        except OSError as error:
            raise UsageError(f"{self.place}: cannot be read ({error.strerror})") from error
        with stream:
            yield stream, num_bytes


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Embed texts with a bundle's text encoder."
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "texts",
        metavar="TEXT",
        nargs="*",
        help="texts to embed; - reads one per line from standard input",
    )
    parser.set_defaults(gather="texts")
    parser.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        help=".txt file (a text per line), .jsonl file (an object per line), or - for standard "
        "input",
    )
    parser.add_argument(
        "--field",
        metavar="NAME",
        help="field of each JSON object that holds its text (default text); standard input is then "
        "read as JSON lines",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help=".npz, .npy or .parquet file, replaced if it exists",
    )
    parser.add_argument(
        "--pooled", action="store_true", help="add the mean over each text's tokens, of length 1"
    )
    parser.add_argument("--pooled-only", action="store_true", help="write that mean and no tokens")
    parser.add_argument(
        "--batch", metavar="N", type=integer, default=32, help="texts encoded at once (default 32)"
    )
    parser.add_argument(
        "--window",
        metavar="N",
        type=integer,
        help="texts of --input sorted by length and kept in memory at once (default 256); with "
        "--shard lines per block (default 4096)",
    )
    add_shard(parser)
    add_engine(parser)
    add_json(parser)


def run(options: EmbedOptions) -> None:
    """Embed and write; the exit code is 1 if a line was skipped."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.text.embedding_files import Contents, check_suffix
    from minit2i_deploy.text.encoder import SequenceEncoder

    source = _source(options)
    check_suffix(options.output)
    output_paths.output_file(options.output, options.output.suffix.lower())
    contents = Contents(
        tokens=not options.pooled_only,
        pooled=options.pooled or options.pooled_only,
        lines=source is not None,
    )
    bundle = Bundle.open(options.bundle)
    if options.shard is not None:
        assert source is not None
        _embed_shard(bundle, source, options, contents)
        return
    warn_of_single_words(options.texts)
    with open_engine(bundle, options.engine) as runtime:
        encoder = SequenceEncoder(bundle, runtime, batch_size=options.batch)
        if source is None:
            _print(options, _embed_arguments(encoder, options, contents))
            return
        report = _embed_source(bundle, encoder, source, options, contents)
    _print(options, report.shapes, report)
    if report.num_skipped:
        lines = "1 line" if report.num_skipped == 1 else f"{report.num_skipped} lines"
        raise Minit2iError(
            f"{source.place}: skipped {lines} without a text; the other "
            f"{report.num_texts} are in {options.output}"
        )


def _source(options: EmbedOptions) -> _Source | None:
    """The file that texts come from, or None where they are arguments."""
    texts, place, field = options.texts, options.input, options.field
    if texts == (_STDIN,):
        texts, place = (), place or _STDIN
    if place is None:
        _check_arguments(options)
        return None
    if texts:
        raise UsageError("TEXT and --input are mutually exclusive")
    if place == _STDIN:
        return _Source(place=place, field=field)
    suffix = Path(place).suffix.lower()
    if suffix not in (_TEXT_SUFFIX, _JSON_SUFFIX):
        raise UsageError(f"{place}: expected a {_TEXT_SUFFIX} or {_JSON_SUFFIX} file")
    if suffix == _TEXT_SUFFIX and field is not None:
        raise UsageError(f"{place}: --field requires a {_JSON_SUFFIX} file")
    return _Source(place=place, field=field or "text" if suffix == _JSON_SUFFIX else None)


def _check_arguments(options: EmbedOptions) -> None:
    if not options.texts:
        hint = bundle_hint("embed", options.bundle)
        raise UsageError(
            f"no text given; expected TEXT, --input FILE, or - for standard input{hint}"
        )
    for name in ("field", "window", "shard"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} requires --input")


def _embed_arguments(
    encoder: SequenceEncoder, options: EmbedOptions, contents: Contents
) -> dict[str, list[int]]:
    import warnings

    from minit2i_deploy.errors import PromptTruncatedWarning
    from minit2i_deploy.text.embed_job import make_part
    from minit2i_deploy.text.embedding_files import Sizes, write_parts
    from minit2i_deploy.text.text_lines import Line

    items = [Line(number=number, text=text) for number, text in enumerate(options.texts, 1)]
    part, truncations = make_part(encoder, items, contents)
    for number, notice in truncations:
        warnings.warn(f"text {number}: {notice}", PromptTruncatedWarning, stacklevel=2)
    sizes = Sizes(num_texts=len(part), longest=int(part.lengths.max()), width=part.tokens.shape[1])
    return write_parts(options.output, lambda: iter([part]), sizes, contents)


def _embed_source(
    bundle: Bundle,
    encoder: SequenceEncoder,
    source: _Source,
    options: EmbedOptions,
    contents: Contents,
) -> Report:
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.text.embed import WINDOW
    from minit2i_deploy.text.embed_job import embed_lines, parts_folder
    from minit2i_deploy.text.text_lines import TextSource

    with source.open() as (stream, num_bytes), ProgressLine("embed") as line:

        def on_part(state: JobState) -> None:
            share = state.num_bytes / num_bytes if num_bytes else 0.0
            line(share, f"{state.num_texts} texts")

        try:
            return embed_lines(
                encoder,
                TextSource(stream, source.field),
                options.output,
                contents,
                job=_identity(bundle, source, options.engine),
                resumable=not source.is_stdin,
                window=WINDOW if options.window is None else options.window,
                on_part=on_part,
            )
        except KeyboardInterrupt as interrupt:
            if source.is_stdin:
                raise
            parts = parts_folder(options.output)
            raise KeyboardInterrupt(
                f"embeddings so far are in {parts}; the same command resumes"
            ) from interrupt


def _embed_shard(
    bundle: Bundle, source: _Source, options: EmbedOptions, contents: Contents
) -> None:
    from minit2i_deploy.cli.support.sharded.embed_shards import (
        BLOCK_LINES,
        EmbedWork,
        embed_one_shard,
        print_report,
    )

    assert options.shard is not None
    if source.is_stdin:
        raise UsageError("--shard requires --input FILE, which every process can read again")
    work = EmbedWork(
        input=Path(source.place),
        field=source.field,
        output=options.output,
        contents=contents,
        batch=options.batch,
        block_lines=BLOCK_LINES if options.window is None else options.window,
        shard=options.shard,
        engine=options.engine,
    )
    report, folder = embed_one_shard(bundle, work)
    print_report(report, folder, as_json=options.json, place=source.place)


def _identity(bundle: Bundle, source: _Source, engine: EngineOptions) -> dict[str, Any]:
    """What must be equal for an interrupted job to be resumed."""
    return {
        "bundle": bundle.digest,
        "input": source.place if source.is_stdin else str(Path(source.place).resolve()),
        "field": source.field,
        "engine": [engine.name, engine.provider, engine.precision],
    }


def _print(
    options: EmbedOptions, shapes: dict[str, list[int]], report: Report | None = None
) -> None:
    from minit2i_deploy.cli.support.formatting import json_text

    if report is not None:
        _warn(report)
    if not options.json:
        print(
            options.output, " ".join(f"{name} {shape}" for name, shape in shapes.items()), sep="  "
        )
        return
    values: dict[str, Any] = {"file": str(options.output), "shapes": shapes}
    if report is not None:
        problems = [{"line": number, "problem": problem} for number, problem in report.skipped]
        values |= {
            "resumed": report.num_resumed,
            "cut": report.num_cut,
            "skipped": report.num_skipped,
            "problems": problems,
        }
    print(json_text(values))


def _warn(report: Report) -> None:
    for number, problem in report.skipped:
        sys.stderr.write(f"minit2i: warning: line {number}: {problem}; skipped\n")
    if report.num_cut:
        sys.stderr.write(
            f"minit2i: warning: truncated {report.num_cut} texts to the model's prompt length\n"
        )
