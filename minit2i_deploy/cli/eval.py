"""minit2i eval: score how often a bundle's images show what their prompts ask for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.eval_tasks.editing_task import add_editing
from minit2i_deploy.cli.support.eval_tasks.paint_task import add_paint
from minit2i_deploy.cli.support.eval_tasks.score_task import add_score
from minit2i_deploy.cli.support.limits import check_least, check_per_kind
from minit2i_deploy.cli.support.options.engine_options import EngineOptions, add_engine
from minit2i_deploy.cli.support.options.sampling_options import (
    AdjustmentOptions,
    TableOptions,
    add_adjustments,
    add_sampling,
    adjust_table,
    choose_table,
)
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_bundle,
    add_json,
    add_scored_images,
    add_size,
    integer,
    size_pair,
)
from minit2i_deploy.cli.support.parser import add_task
from minit2i_deploy.cli.support.table_comparison import (
    ComparisonOptions,
    ComparisonRun,
    add_comparison,
    check_comparison,
    compare_tables,
)
from minit2i_deploy.errors import UsageError

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


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapesOptions:
    """Options of minit2i eval shapes; None where one was not given."""

    bundle: str
    per_kind: int
    kinds: str
    batch: int
    seed: int
    size: int | tuple[int, int] | None
    output: Path | None
    sampling: TableOptions
    guidance: tuple[float, ...] | None
    adjustments: AdjustmentOptions
    comparison: ComparisonOptions
    engine: EngineOptions
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the tests."""
    parser.description = "Score how often a bundle's images show what their prompts ask for."
    tests = parser.add_subparsers(metavar="TEST", title="tests", required=True)
    _add_shapes(tests)
    add_editing(tests)
    add_paint(tests)
    add_score(tests)


def _add_shapes(tests: Any) -> None:
    shapes = add_task(
        tests,
        "shapes",
        run_shapes,
        help="drawn shapes, scored by an exact detector",
        description=(
            "Generate images of held-out captions of the shapes data, six kinds of them, and "
            "score each with an exact detector. Prints the accuracy of each kind and of all, with "
            "its 95% Wilson interval. With --tables: compares solvers by that score, by their "
            "distance to a fine time grid and by artifacts in the pixels, against evaluations of "
            "the network."
        ),
        epilog=_EPILOG,
    )
    _configure_shapes(shapes)


def _configure_shapes(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--per-kind", metavar="N", type=integer, default=100, help="captions per kind (default 100)"
    )
    parser.add_argument(
        "--kinds",
        choices=_KINDS,
        default="known",
        help="known: the six that the demo model was trained on (default); novel: those with a "
        "color that it was not trained on, which an adapter can teach it; all: both",
    )
    add_size(parser)
    add_scored_images(parser, seed_of="captions", made="generated", batch=8)
    add_sampling(parser, several_guidances=True)
    add_adjustments(parser)
    add_comparison(parser)
    add_engine(parser)
    add_json(parser)


def run_shapes(options: ShapesOptions) -> None:
    """Generate, score, print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.cli.support.formatting import json_text

    _check(options)
    if options.output is not None:
        output_paths.output_file(options.output, ".json")
    bundle = Bundle.open(options.bundle).at_size(size_pair(options.size))
    if options.comparison.tables is None:
        values, text = _score(bundle, options)
    else:
        report = compare_tables(bundle, _comparison_run(options), options.comparison)
        values, text = report.to_dict(), report.to_table()
    if options.output is not None:
        output_paths.write_json(options.output, values)
    print(json_text(values) if options.json else text)


def _check(options: ShapesOptions) -> None:
    check_per_kind("--per-kind", options.per_kind)
    check_least("--batch", options.batch, 1)
    check_comparison(options.comparison, options.sampling)
    if options.comparison.tables is None:
        if options.guidance is not None and len(options.guidance) > 1:
            raise UsageError(f"expected one --guidance, got {len(options.guidance)}; add --tables")
    elif options.kinds != "known":
        raise UsageError(
            f"--tables compares the known kinds only; leave out --kinds {options.kinds}"
        )


def _comparison_run(options: ShapesOptions) -> ComparisonRun:
    return ComparisonRun(
        per_kind=options.per_kind,
        batch=options.batch,
        seed=options.seed,
        guidance=options.guidance,
        adjustments=options.adjustments,
        engine=options.engine,
    )


def _score(bundle: Bundle, options: ShapesOptions) -> tuple[dict[str, Any], str]:
    """Score and verdicts of one table: for programs, and for people."""
    from minit2i_deploy.evaluation.shapes import ShapesScore

    scale = None if options.guidance is None else options.guidance[0]
    table, guidance = choose_table(bundle, options.sampling, scale)
    table = adjust_table(table, options.adjustments)
    runtime_name, images = _generate(bundle, options, table, guidance)
    score = ShapesScore.of((item.spec, item.verdict) for item in images)
    values = {
        "bundle": bundle.digest,
        "runtime": runtime_name,
        "table": table.name,
        "guidance": guidance,
        "seed": options.seed,
        **score.to_dict(),
        "pictures": [item.to_dict() for item in images],
    }
    return values, score.to_table()


def _generate(
    bundle: Bundle, options: ShapesOptions, table: Table, guidance: float
) -> tuple[str, list[JudgedImage]]:
    """The name of the runtime, and the images with their verdicts."""
    from minit2i_deploy.evaluation.shapes import held_out_captions
    from minit2i_deploy.evaluation.shapes.judged_images import generate_judged_images
    from minit2i_deploy.progress import ProgressLine

    captions = held_out_captions(options.per_kind, options.seed, _kinds(options.kinds))
    with ProgressLine("eval shapes") as progress, open_engine(bundle, options.engine) as runtime:
        images = generate_judged_images(
            bundle,
            runtime,
            captions,
            table=table,
            guidance=guidance,
            seed=options.seed,
            batch=options.batch,
            progress=progress,
        )
        return runtime.name, list(images)


def _kinds(name: str) -> tuple[str, ...]:
    from minit2i_deploy.evaluation.shapes import KINDS, NOVEL_KINDS

    return {"known": KINDS, "novel": NOVEL_KINDS, "all": (*KINDS, *NOVEL_KINDS)}[name]
