"""The part of ``minit2i eval shapes`` that compares several tables."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.options import adjusted_table, opened_runtime
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.quality import Candidate, MeterReport, MeterSettings

_REFERENCE_STEPS: Final = 1000
_REFERENCE_PER_KIND: Final = 4
# What only a comparison has: the option's name in the namespace, and on the command line.
_ONLY_HERE: Final = {
    "reference_steps": "--reference-steps",
    "reference_per_kind": "--reference-per-kind",
    "plots": "--plots",
}


def add_meter(parser: argparse.ArgumentParser) -> None:
    """--tables and what belongs to it."""
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--tables",
        metavar="T,T..",
        help="compare tables on the same captions and noise, the others with the first: names of "
        "the bundle's, .json files, or SOLVER:STEPS[:shift=S][:a_min=A|land]",
    )
    group.add_argument(
        "--reference-steps",
        metavar="N",
        type=int,
        help=f"of the fine grid that PSNR and GMSD are measured to; 0 for none "
        f"(default {_REFERENCE_STEPS})",
    )
    group.add_argument(
        "--reference-per-kind",
        metavar="N",
        type=int,
        help=f"captions a kind compared with that grid (default {_REFERENCE_PER_KIND})",
    )
    group.add_argument(
        "--plots", metavar="DIR", type=Path, help="new folder for the curves as PNG files"
    )


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: the first of them.
    """
    if options.tables is None:
        given = [word for key, word in _ONLY_HERE.items() if getattr(options, key) is not None]
        if given:
            raise UsageError(f"{given[0]} came without --tables; name the tables to compare")
        if options.guidance is not None and len(options.guidance) > 1:
            raise UsageError("several guidance scales came without --tables; give one, or tables")
        return
    for key in ("preset", "table", "solver", "steps"):
        if getattr(options, key) is not None:
            raise UsageError(f"--tables came with --{key}; give one or the other")


def compare(bundle: Bundle, options: argparse.Namespace) -> MeterReport:
    """Measure every table at every guidance scale, and write the plots that were asked for.

    Raises:
        UsageError: a table or number that is not there or out of range.
        MissingDependencyError: plots were asked for and matplotlib is not installed.
        RuntimeFailure: the engine failed.
    """
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.errors import require
    from minit2i_deploy.io.files import remove_if_empty

    settings, candidates = _settings(options), _candidates(bundle, options)
    if options.plots is None:
        return _measured(bundle, options, candidates, settings)
    # Known before minutes of painting, not after.
    require("matplotlib.figure", "eval")
    with remove_if_empty(options.plots):
        output_paths.new_folder(options.plots)
        report = _measured(bundle, options, candidates, settings)
        from minit2i_deploy.evaluation.quality.plots import write_plots

        write_plots(report, options.plots)
    return report


def _measured(
    bundle: Bundle,
    options: argparse.Namespace,
    candidates: list[Candidate],
    settings: MeterSettings,
) -> MeterReport:
    from minit2i_deploy.evaluation.quality import measure_candidates
    from minit2i_deploy.progress import ProgressLine

    with ProgressLine("eval shapes") as progress, opened_runtime(bundle, options) as runtime:
        return measure_candidates(bundle, runtime, candidates, settings, progress)


def _settings(options: argparse.Namespace) -> MeterSettings:
    from minit2i_deploy.evaluation.quality import MeterSettings

    def given(name: str, default: int) -> Any:
        value = getattr(options, name)
        return default if value is None else value

    return MeterSettings(
        per_kind=options.per_kind,
        seed=options.seed,
        batch=options.batch,
        reference_steps=given("reference_steps", _REFERENCE_STEPS),
        reference_per_kind=given("reference_per_kind", _REFERENCE_PER_KIND),
    )


def _candidates(bundle: Bundle, options: argparse.Namespace) -> list[Candidate]:
    from minit2i_deploy.evaluation.quality.candidates import list_candidates, parse_table

    tables = [
        adjusted_table(parse_table(bundle, spec.strip()), options)
        for spec in options.tables.split(",")
    ]
    if options.guidance is not None:
        return list_candidates(tables, options.guidance)
    scale = bundle.preset()[1]
    return [
        candidate
        for table in tables
        for candidate in list_candidates(
            [table], [scale if table.student_guidance is None else table.student_guidance]
        )
    ]
