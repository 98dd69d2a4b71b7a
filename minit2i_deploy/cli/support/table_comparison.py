"""The part of ``minit2i eval shapes`` that compares several tables."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.engine_opening import open_engine
from minit2i_deploy.cli.support.limits import check_per_kind
from minit2i_deploy.cli.support.options.engine_options import EngineOptions
from minit2i_deploy.cli.support.options.sampling_options import (
    AdjustmentOptions,
    TableOptions,
    adjust_table,
)
from minit2i_deploy.cli.support.options.shared_arguments import integer
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.quality import Candidate, MeterReport, MeterSettings

TABLES_HELP: Final = (
    "compare tables on the same captions and noise, the others with the first: tables of the "
    "bundle, .json files, or SOLVER:STEPS[:shift=S][:a_min=A|land][:repeats=N][:jump=N]"
    "[:between=START-END]"
)
_REFERENCE_STEPS: Final = 1000
_REFERENCE_PER_KIND: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonOptions:
    """The tables to compare, and what only a comparison takes; None where not given."""

    tables: str | None
    reference_steps: int | None
    reference_per_kind: int | None
    plots: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonRun:
    """What a comparison shares with the score of one table."""

    per_kind: int
    batch: int
    seed: int
    guidance: tuple[float, ...] | None
    adjustments: AdjustmentOptions
    engine: EngineOptions


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """--tables and the options that require it."""
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--tables",
        metavar="T,T..",
        help=TABLES_HELP,
    )
    group.add_argument(
        "--reference-steps",
        metavar="N",
        type=integer,
        help=f"of the fine time grid that PSNR and GMSD are measured to; 0 for none "
        f"(default {_REFERENCE_STEPS})",
    )
    group.add_argument(
        "--reference-per-kind",
        metavar="N",
        type=integer,
        help=f"captions per kind compared with that grid (default {_REFERENCE_PER_KIND})",
    )
    group.add_argument(
        "--plots", metavar="DIR", type=Path, help="new folder for the curves as PNG files"
    )


def check_comparison(options: ComparisonOptions, sampling: TableOptions) -> None:
    """Refuse options that do not go together.

    Raises:
        UsageError: the first of them.
    """
    if options.reference_per_kind is not None:
        check_per_kind("--reference-per-kind", options.reference_per_kind)
    if options.tables is None:
        for name in ("reference_steps", "reference_per_kind", "plots"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} requires --tables")
        return
    refuse_one_table(sampling)


def refuse_one_table(sampling: TableOptions) -> None:
    """Refuse an option that names one table, beside --tables.

    Raises:
        UsageError: there is one.
    """
    for name in ("preset", "table", "solver", "steps"):
        if getattr(sampling, name) is not None:
            raise UsageError(f"--tables and --{name} are mutually exclusive")


def compare_tables(bundle: Bundle, run: ComparisonRun, options: ComparisonOptions) -> MeterReport:
    """Measure every table at every guidance scale, and write the plots that are asked for.

    Raises:
        UsageError: a table or number that is not there or out of range.
        MissingDependencyError: plots are asked for and matplotlib is not installed.
        RuntimeFailure: the engine failed.
    """
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.errors import require
    from minit2i_deploy.io.files import remove_if_empty

    settings, candidates = _settings(run, options), _candidates(bundle, run, options)
    if options.plots is None:
        return _measure(bundle, run, candidates, settings)
    # Known before minutes of sampling, not after.
    require("matplotlib.figure", "eval")
    with remove_if_empty(options.plots):
        output_paths.create_folder(options.plots)
        report = _measure(bundle, run, candidates, settings)
        from minit2i_deploy.evaluation.quality.plots import write_plots

        write_plots(report, options.plots)
    return report


def _measure(
    bundle: Bundle, run: ComparisonRun, candidates: list[Candidate], settings: MeterSettings
) -> MeterReport:
    from minit2i_deploy.evaluation.quality import measure_candidates
    from minit2i_deploy.progress import ProgressLine

    with ProgressLine("eval shapes") as progress, open_engine(bundle, run.engine) as runtime:
        return measure_candidates(bundle, runtime, candidates, settings, progress)


def _settings(run: ComparisonRun, options: ComparisonOptions) -> MeterSettings:
    from minit2i_deploy.evaluation.quality import MeterSettings

    steps, per_kind = options.reference_steps, options.reference_per_kind
    return MeterSettings(
        per_kind=run.per_kind,
        seed=run.seed,
        batch=run.batch,
        reference_steps=_REFERENCE_STEPS if steps is None else steps,
        reference_per_kind=_REFERENCE_PER_KIND if per_kind is None else per_kind,
    )


def _candidates(bundle: Bundle, run: ComparisonRun, options: ComparisonOptions) -> list[Candidate]:
    return parse_candidates(bundle, options.tables or "", run.guidance, run.adjustments)


def parse_candidates(
    bundle: Bundle,
    specs: str,
    guidance: tuple[float, ...] | None,
    adjustments: AdjustmentOptions,
) -> list[Candidate]:
    """The tables of --tables at every scale of --guidance, or each at its own.

    Raises:
        UsageError: a table or number that is not there or out of range.
    """
    from minit2i_deploy.evaluation.quality.candidates import list_candidates, parse_table

    tables = [
        adjust_table(parse_table(bundle, spec.strip()), adjustments) for spec in specs.split(",")
    ]
    if guidance is not None:
        return list_candidates(tables, guidance)
    scale = bundle.preset()[1]
    return [
        candidate
        for table in tables
        for candidate in list_candidates(
            [table], [scale if table.student_guidance is None else table.student_guidance]
        )
    ]
