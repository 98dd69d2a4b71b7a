"""minit2i eval: how often a bundle's pictures keep what their prompts promise."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.options import (
    add_adjustments,
    add_bundle,
    add_engine,
    add_json,
    add_painting,
    adjusted_table,
    chosen_painting,
    opened_runtime,
)
from minit2i_deploy.cli.support.table_meter import (
    add_meter,
    check_options,
    compare,
)

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.shapes.judged_images import JudgedImage
    from minit2i_deploy.solvers.table import Table

_KINDS: Final = ("known", "novel", "all")
_EPILOG: Final = """\
examples:
  minit2i eval shapes my-bundle
  minit2i eval shapes my-bundle --per-kind 20 --steps 20 -o score.json
  minit2i eval shapes my-bundle --kinds novel
  minit2i eval shapes my-bundle --tables euler-100,dpmpp2m:20,ab2:20 --plots plots
  minit2i eval shapes my-bundle --tables dpmpp2m:20 --guidance 1,2.5,6 --clip 1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the one test there is."""
    parser.description = "Measure how often a bundle's pictures keep what their prompts promise."
    tests = parser.add_subparsers(metavar="TEST", title="tests", required=True)
    shapes = tests.add_parser(
        "shapes",
        help="drawn shapes, judged by an exact detector",
        description=(
            "Paint held-out captions of the shapes data, six kinds of them, and judge each "
            "picture with an exact detector. Prints the accuracy of each kind and of all, with "
            "its 95% Wilson interval. With --tables: compares solvers by that score, by their "
            "distance to a fine grid and by what is wrong with the pixels, against evaluations "
            "of the network."
        ),
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=parser.formatter_class,
    )
    _configure_shapes(shapes)


def _configure_shapes(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--per-kind", metavar="N", type=int, default=100, help="captions a kind (default 100)"
    )
    parser.add_argument(
        "--kinds",
        choices=_KINDS,
        default="known",
        help="known: the six that the demo model was trained on (default); novel: those with a "
        "colour it never saw, which an adapter can teach it; all: both",
    )
    parser.add_argument(
        "--batch", metavar="N", type=int, default=8, help="pictures painted at once (default 8)"
    )
    parser.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="of the captions, and of the first picture's noise; the next has N + 1 (default 0)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help=".json file for the report, replaced if it is there",
    )
    add_painting(parser, several_guidances=True)
    add_adjustments(parser)
    add_meter(parser)
    add_engine(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Paint, judge, print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.cli.support.counts import check_per_kind
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.errors import UsageError

    check_options(options)
    check_per_kind("--per-kind", options.per_kind)
    if options.reference_per_kind is not None:
        check_per_kind("--reference-per-kind", options.reference_per_kind)
    if options.tables is not None and options.kinds != "known":
        raise UsageError(
            f"--tables came with --kinds {options.kinds}, but tables are compared on the six known "
            "kinds; drop one of the two"
        )
    if options.output is not None:
        output_paths.output_file(options.output, ".json")
    bundle = Bundle.open(options.bundle)
    if options.tables is not None:
        report = compare(bundle, options)
        values, text = report.to_dict(), report.to_table()
    else:
        values, text = _score(bundle, options)
    if options.output is not None:
        output_paths.write_json(options.output, values)
    print(json_text(values) if options.json else text)


def _score(bundle: Bundle, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """One table's score and every verdict: for programs, and for people."""
    from minit2i_deploy.evaluation.shapes import ShapesScore

    options.guidance = None if options.guidance is None else options.guidance[0]
    table, guidance = chosen_painting(bundle, options)
    table = adjusted_table(table, options)
    painted = _paint(bundle, options, table, guidance)
    score = ShapesScore.of((item.spec, item.verdict) for item in painted)
    values = {
        "bundle": bundle.digest,
        "runtime": options.runtime,
        "table": table.name,
        "guidance": guidance,
        "seed": options.seed,
        **score.to_dict(),
        "pictures": [item.to_dict() for item in painted],
    }
    return values, score.to_table()


def _paint(
    bundle: Bundle, options: argparse.Namespace, table: Table, guidance: float
) -> list[JudgedImage]:
    from minit2i_deploy.evaluation.shapes import held_out_captions
    from minit2i_deploy.evaluation.shapes.judged_images import generate_judged_images
    from minit2i_deploy.progress import ProgressLine

    captions = held_out_captions(options.per_kind, options.seed, _kinds(options.kinds))
    with ProgressLine("eval shapes") as progress, opened_runtime(bundle, options) as runtime:
        painted = generate_judged_images(
            bundle,
            runtime,
            captions,
            table=table,
            guidance=guidance,
            seed=options.seed,
            batch=options.batch,
            progress=progress,
        )
        return list(painted)


def _kinds(word: str) -> tuple[str, ...]:
    from minit2i_deploy.evaluation.shapes import KINDS, NOVEL_KINDS

    return {"known": KINDS, "novel": NOVEL_KINDS, "all": (*KINDS, *NOVEL_KINDS)}[word]
