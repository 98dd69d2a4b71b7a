"""minit2i eval editing: its arguments, and how it runs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.limits import check_count, check_least
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
    integer,
    numbers,
)
from minit2i_deploy.cli.support.parser import add_task
from minit2i_deploy.cli.support.table_comparison import (
    TABLES_HELP,
    parse_candidates,
    refuse_one_table,
)
from minit2i_deploy.errors import require

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.editing import EditingSettings
    from minit2i_deploy.evaluation.quality import Candidate

# Names of minit2i_deploy.evaluation.editing, repeated so that --help does not import it.
_TASKS: Final = ("add", "remove", "recolour")
_MAX_COUNT: Final = 100_000
_EPILOG: Final = """\
examples:
  minit2i eval editing my-bundle
  minit2i eval editing my-bundle --tasks add --count 600 --preset inpaint
  minit2i eval editing my-bundle --tasks none --strengths 0.2,0.4,0.6,0.8
  minit2i eval editing my-bundle --tables ab2:20,ab2:20:repeats=4:jump=5 -o editing.json
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EditingOptions:
    """Options of minit2i eval editing; None where one was not given."""

    bundle: str
    count: int
    tasks: tuple[str, ...]
    strengths: tuple[float, ...] | None
    batch: int
    seed: int
    output: Path | None
    sampling: TableOptions
    guidance: tuple[float, ...] | None
    adjustments: AdjustmentOptions
    tables: str | None
    plot: Path | None
    engine: EngineOptions
    json: bool


def add_editing(tests: Any) -> None:
    """The parser of the test."""
    parser = add_task(
        tests,
        "editing",
        run_editing,
        help="drawn shapes, edited and scored by an exact detector",
        description=(
            "Edit drawn scenes under held-out captions of the shapes data: add an object beside a "
            "known one, remove one, change the color of one under a mask; with --strengths, "
            "change a color by image-to-image. An exact detector judges the complete caption and "
            "the objects that stay. Prints shares with their 95% Wilson interval."
        ),
        epilog=_EPILOG,
    )
    add_bundle(parser)
    parser.add_argument(
        "--count", metavar="N", type=integer, default=100, help="scenes per task (default 100)"
    )
    parser.add_argument(
        "--tasks",
        metavar="T,T..",
        type=_tasks,
        default=_TASKS,
        help=f"some of {', '.join(_TASKS)}, or none (default: all)",
    )
    parser.add_argument(
        "--strengths",
        metavar="S,S..",
        type=numbers,
        help="image-to-image at each of these strengths, 0 to 1 (default: not measured)",
    )
    add_scored_images(parser, seed_of="scenes", made="edited", batch=16)
    add_sampling(parser, several_guidances=True)
    add_adjustments(parser)
    parser.add_argument("--tables", metavar="T,T..", help=TABLES_HELP)
    parser.add_argument(
        "--plot", metavar="FILE", type=Path, help=".png file for the curves, replaced if it exists"
    )
    add_engine(parser)
    add_json(parser)


def run_editing(options: EditingOptions) -> None:
    """Edit, judge, print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.evaluation.editing import measure_editing
    from minit2i_deploy.evaluation.editing.editing_plot import plot_editing
    from minit2i_deploy.progress import ProgressLine

    settings = _settings(options)
    if options.output is not None:
        output_paths.output_file(options.output, ".json")
    if options.plot is not None:
        output_paths.output_file(options.plot, ".png")
        # Known before minutes of sampling, not after.
        require("matplotlib.figure", "eval")
    bundle = Bundle.open(options.bundle)
    candidates = _candidates(bundle, options)
    with ProgressLine("eval editing") as progress, open_engine(bundle, options.engine) as runtime:
        report = measure_editing(bundle, runtime, candidates, settings, progress)
    values = report.to_dict()
    if options.output is not None:
        output_paths.write_json(options.output, values)
    if options.plot is not None:
        plot_editing(report, options.plot)
    print(json_text(values) if options.json else report.to_table())


def _settings(options: EditingOptions) -> EditingSettings:
    from minit2i_deploy.evaluation.editing import EditingSettings

    check_count("--count", options.count, _MAX_COUNT, "the interval is 0.003 wide by then")
    check_least("--batch", options.batch, 1)
    check_least("--seed", options.seed, 0)
    return EditingSettings(
        count=options.count,
        tasks=options.tasks,
        strengths=options.strengths or (),
        seed=options.seed,
        batch=options.batch,
    )


def _candidates(bundle: Bundle, options: EditingOptions) -> list[Candidate]:
    from minit2i_deploy.evaluation.quality.candidates import list_candidates

    if options.tables is not None:
        refuse_one_table(options.sampling)
        return parse_candidates(bundle, options.tables, options.guidance, options.adjustments)
    table, scale = choose_table(bundle, options.sampling, None)
    adjusted = adjust_table(table, options.adjustments)
    return list_candidates([adjusted], options.guidance or (scale,))


def _tasks(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in _TASKS]:
        raise argparse.ArgumentTypeError(
            f"expected some of {', '.join(_TASKS)}, or none, got {unknown[0]!r}"
        )
    return names
