"""minit2i embed: texts to the text encoder's embeddings."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from minit2i_deploy.cli.support.options import add_bundle, add_engine, add_json, opened_runtime
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
  line    int64 [texts], number of each text's line, with --input
A .npy file holds values; the others go beside it as NAME.mask.npy and so on. A
.parquet file has a row for each text, without padding, and the text itself.

A line of --input that holds no text is named and left out, and the exit code is
then 1. After an interruption the same command goes on where it stopped; until the
end the rows stand in FILE.parts.

examples:
  minit2i embed my-bundle "a red circle" "a blue square" -o texts.npz
  minit2i embed my-bundle --input captions.jsonl --field caption -o captions.parquet
  cut -f 2 table.tsv | minit2i embed my-bundle - --pooled-only -o vectors.npy
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Embed texts with a bundle's text encoder."
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "texts", metavar="TEXT", nargs="*", help="texts; a single - reads them from stdin"
    )
    parser.set_defaults(gather="texts")
    parser.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        help=".txt (a text on each line), .jsonl (an object on each line), or - for stdin",
    )
    parser.add_argument(
        "--field",
        metavar="NAME",
        help="where each JSON object has its text (default: text); makes stdin JSON lines",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        required=True,
        help=".npz, .npy or .parquet file, replaced if it is there",
    )
    parser.add_argument(
        "--pooled", action="store_true", help="add the mean over each text's tokens, of length 1"
    )
    parser.add_argument("--pooled-only", action="store_true", help="write that mean and no tokens")
    parser.add_argument(
        "--batch", metavar="N", type=int, default=32, help="texts encoded at once (default: 32)"
    )
    parser.add_argument(
        "--window",
        metavar="N",
        type=int,
        help="texts of --input sorted by length and kept in memory at once (default: 256)",
    )
    add_engine(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Embed and write; the exit code is 1 if a line was left out."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.text.embedding_files import Contents, check_suffix
    from minit2i_deploy.text.encoder import SequenceEncoder

    place = _input(options)
    check_suffix(options.output)
    output_paths.output_file(options.output, options.output.suffix.lower())
    contents = Contents(
        tokens=not options.pooled_only,
        pooled=options.pooled or options.pooled_only,
        lines=place is not None,
    )
    bundle = Bundle.open(options.bundle)
    with opened_runtime(bundle, options) as runtime:
        encoder = SequenceEncoder(bundle, runtime, batch_size=options.batch)
        if place is None:
            _tell(options, _embed_arguments(encoder, options, contents))
            return
        report = _embed_input(bundle, encoder, place, options, contents)
    _tell(options, report.shapes, report)
    if report.num_skipped:
        raise Minit2iError(
            f"{place}: {report.num_skipped} lines hold no text and were left out; the other "
            f"{report.num_texts} are in {options.output}"
        )


def _input(options: argparse.Namespace) -> str | None:
    """The file that texts come from, - for stdin, or None for arguments."""
    place: str | None = options.input
    if options.texts == [_STDIN]:
        options.texts, place = [], place or _STDIN
    if options.texts and place is not None:
        raise UsageError("TEXT came with --input; give one or the other")
    if not options.texts and place is None:
        raise UsageError("no text came; give TEXT, --input FILE, or - to read stdin")
    if place is None and options.field is not None:
        raise UsageError("--field came without --input; it names a member of JSON lines")
    if place is None and options.window is not None:
        raise UsageError("--window came without --input; it cuts what is read into pieces")
    if place in (None, _STDIN):
        return place
    suffix = Path(place).suffix.lower()
    if suffix not in (_TEXT_SUFFIX, _JSON_SUFFIX):
        raise UsageError(f"{place}: texts are read from .txt and .jsonl files; name one")
    if suffix == _TEXT_SUFFIX and options.field is not None:
        raise UsageError(f"{place}: --field is for .jsonl files; leave it out or name one")
    if suffix == _JSON_SUFFIX:
        options.field = options.field or "text"
    return place


def _embed_arguments(
    encoder: SequenceEncoder, options: argparse.Namespace, contents: Contents
) -> dict[str, list[int]]:
    import warnings

    from minit2i_deploy.errors import PromptTruncatedWarning
    from minit2i_deploy.text.embed_job import make_part
    from minit2i_deploy.text.embedding_files import Sizes, write_parts
    from minit2i_deploy.text.text_lines import Line

    items = [Line(number=number, text=text) for number, text in enumerate(options.texts, 1)]
    part, cut = make_part(encoder, items, contents)
    for number, notice in cut:
        warnings.warn(f"text {number}: {notice}", PromptTruncatedWarning, stacklevel=2)
    sizes = Sizes(num_texts=len(part), longest=int(part.lengths.max()), width=part.tokens.shape[1])
    return write_parts(options.output, lambda: iter([part]), sizes, contents)


def _embed_input(
    bundle: Bundle,
    encoder: SequenceEncoder,
    place: str,
    options: argparse.Namespace,
    contents: Contents,
) -> Report:
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.text.embed import WINDOW
    from minit2i_deploy.text.embed_job import embed_lines, parts_folder
    from minit2i_deploy.text.text_lines import TextSource

    with _opened(place) as (stream, num_bytes), ProgressLine("embed") as line:

        def on_part(state: JobState) -> None:
            share = state.num_bytes / num_bytes if num_bytes else 0.0
            line(share, f"{state.num_texts} texts")

        try:
            return embed_lines(
                encoder,
                TextSource(stream, options.field),
                options.output,
                contents,
                job=_job(bundle, place, options),
                resumable=place != _STDIN,
                window=WINDOW if options.window is None else options.window,
                on_part=on_part,
            )
        except KeyboardInterrupt:
            if place != _STDIN:
                kept = parts_folder(options.output)
                sys.stderr.write(f"minit2i: {kept} keeps what is done; run this again to go on\n")
            raise


def _job(bundle: Bundle, place: str, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "bundle": bundle.digest,
        "input": place if place == _STDIN else str(Path(place).resolve()),
        "field": options.field,
        "engine": [options.runtime, options.provider, options.precision],
    }


@contextlib.contextmanager
def _opened(place: str) -> Iterator[tuple[BinaryIO, int]]:
    """The stream and its size in bytes, 0 where it has none."""
    if place == _STDIN:
        yield sys.stdin.buffer, 0
        return
    try:
        stream = open(place, "rb")
        num_bytes = Path(place).stat().st_size
    except OSError as error:
        raise UsageError(f"{place}: cannot be read ({error.strerror})") from error
    with stream:
        yield stream, num_bytes


def _tell(
    options: argparse.Namespace, shapes: dict[str, list[int]], report: Report | None = None
) -> None:
    from minit2i_deploy.cli.support.formatting import json_text

    if report is not None:
        for number, problem in report.skipped:
            sys.stderr.write(f"minit2i: warning: line {number}: {problem}; left out\n")
        if report.num_cut:
            sys.stderr.write(
                f"minit2i: warning: {report.num_cut} texts are longer than the model takes and "
                "were cut\n"
            )
    if not options.json:
        words = " ".join(f"{name} {shape}" for name, shape in shapes.items())
        print(options.output, words, sep="  ")
        return
    values: dict[str, Any] = {"file": str(options.output), "shapes": shapes}
    if report is not None:
        skipped = [{"line": number, "problem": problem} for number, problem in report.skipped]
        values |= {
            "resumed": report.num_resumed,
            "cut": report.num_cut,
            "skipped": report.num_skipped,
            "problems": skipped,
        }
    print(json_text(values))
