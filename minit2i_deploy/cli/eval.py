"""minit2i eval: how often a bundle's pictures keep what their prompts promise."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.options import (
    add_bundle,
    add_engine,
    add_json,
    add_painting,
    chosen_painting,
    opened_runtime,
)

if TYPE_CHECKING:
    from minit2i_deploy.bundle import Bundle
    from minit2i_deploy.demo.paint import Painted
    from minit2i_deploy.table import Table

_EPILOG: Final = """\
examples:
  minit2i eval shapes my-bundle
  minit2i eval shapes my-bundle --per-kind 20 --steps 20 -o score.json
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
            "its 95% Wilson interval."
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
        help=".json file for the score and every verdict, replaced if it is there",
    )
    add_painting(parser)
    add_engine(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Paint, judge, print."""
    from minit2i_deploy.bundle import Bundle
    from minit2i_deploy.cli import places
    from minit2i_deploy.cli.text import json_text
    from minit2i_deploy.demo.shapes import ShapesScore
    from minit2i_deploy.files import atomic_write_text

    if options.output is not None:
        places.output_file(options.output, ".json")
    bundle = Bundle.open(options.bundle)
    table, guidance = chosen_painting(bundle, options)
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
    if options.output is not None:
        atomic_write_text(options.output, json_text(values) + "\n")
    print(json_text(values) if options.json else score.to_table())


def _paint(
    bundle: Bundle, options: argparse.Namespace, table: Table, guidance: float
) -> list[Painted]:
    from minit2i_deploy.cli.progress import Progress
    from minit2i_deploy.demo.paint import paint_captions
    from minit2i_deploy.demo.shapes import held_out_captions

    captions = held_out_captions(options.per_kind, options.seed)
    with Progress("eval shapes") as progress, opened_runtime(bundle, options) as runtime:
        painted = paint_captions(
            bundle,
            runtime,
            captions,
            table=table,
            guidance=guidance,
            seed=options.seed,
            batch=options.batch,
            progress=progress.update,
        )
        return list(painted)
