"""The solver table and guidance that a command samples with, as several commands take them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minit2i_deploy.cli.support.options.shared_arguments import integer, number, numbers
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.solvers.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOptions:
    """Where the table comes from; with every field None, it is the default preset's."""

    preset: str | None
    table: str | None
    solver: str | None
    steps: int | None

    @property
    def names_a_table(self) -> bool:
        """Whether any of them is given."""
        return any(
            value is not None for value in (self.preset, self.table, self.solver, self.steps)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AdjustmentOptions:
    """Guidance columns in place of the table's own; None leaves one as it is."""

    interval: tuple[float, ...] | None
    clip: float | None
    rescale: float | None


def add_sampling(parser: argparse.ArgumentParser, *, several_guidances: bool = False) -> None:
    """--preset, --table, --solver, --steps and --guidance, the last a tuple where several fit."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="table and guidance that belong together; default: the bundle's default preset",
    )
    group.add_argument(
        "--table", metavar="NAME", help="a table of the bundle, or a .json file of minit2i table"
    )
    group.add_argument(
        "--solver", metavar="NAME", help="compile a solver; minit2i table --list names them"
    )
    group.add_argument(
        "--steps",
        metavar="N",
        type=integer,
        help="steps of --solver; without it, of the solver of the preset",
    )
    group.add_argument(
        "--guidance",
        metavar="G,G.." if several_guidances else "G",
        type=numbers if several_guidances else number,
        help="guidance scale in place of the preset's; 1 is none",
    )


def add_adjustments(parser: argparse.ArgumentParser) -> None:
    """--interval, --clip and --rescale, of any table."""
    group = parser.add_argument_group("guidance of the table, in place of its own")
    group.add_argument(
        "--interval",
        metavar=("START", "END"),
        nargs=2,
        type=number,
        help="guide only rows with START <= t <= END",
    )
    group.add_argument(
        "--clip", metavar="C", type=number, help="bound on each estimate before guidance; 0: none"
    )
    group.add_argument(
        "--rescale", metavar="R", type=number, help="share of guidance rescale, 0 to 1"
    )


def choose_table(
    bundle: Bundle, options: TableOptions, guidance: float | None
) -> tuple[Table, float]:
    """The table and the guidance scale that the options ask for.

    Raises:
        UsageError: options that exclude one another, or a name that is not there.
        BundleError: the bundle's table is corrupt.
    """
    table, scale = bundle.preset(options.preset)
    _check_exclusive(options)
    if options.table is not None:
        table = _named_table(bundle, options.table)
    elif options.solver is not None:
        if options.steps is None:
            raise UsageError(f"--solver {options.solver} requires --steps N")
        table = bundle.compile_table(options.solver, options.steps)
    elif options.steps is not None:
        table = _with_steps(bundle, table, options.steps)
    if guidance is not None:
        return table, guidance
    return table, scale if table.student_guidance is None else table.student_guidance


def adjust_table(table: Table, options: AdjustmentOptions) -> Table:
    """A table with the guidance columns of --interval, --clip and --rescale.

    Raises:
        UsageError: a number outside its range.
    """
    from minit2i_deploy.solvers.guidance import adjust_guidance

    interval = None if options.interval is None else (options.interval[0], options.interval[1])
    return adjust_guidance(table, interval=interval, clip=options.clip, rescale=options.rescale)


def _check_exclusive(options: TableOptions) -> None:
    for name, others in (("preset", ("table", "solver")), ("table", ("solver", "steps"))):
        for other in others:
            if getattr(options, name) is not None and getattr(options, other) is not None:
                raise UsageError(f"--{name} and --{other} are mutually exclusive")


def _with_steps(bundle: Bundle, table: Table, steps: int) -> Table:
    from minit2i_deploy.bundle.other_steps import with_steps

    try:
        return with_steps(bundle, table, steps)
    except UsageError as error:
        raise UsageError(f"--steps requires --solver here: {error}") from error


def _named_table(bundle: Bundle, name: str) -> Table:
    from minit2i_deploy.solvers.table import Table

    return Table.load(Path(name)) if name.endswith(".json") else bundle.table(name)
