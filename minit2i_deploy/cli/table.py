"""minit2i table: a solver, compiled."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.options.shared_arguments import (
    add_json,
    integer,
    number,
    numbers,
)
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.solvers.repeats import Repeats
    from minit2i_deploy.solvers.table import Table

_EPILOG: Final = """\
One row is one evaluation of the denoiser; y is its guided estimate of the
clean image:
  x' = a x + b y + c h + n noise        h' = y + s x

examples:
  minit2i table --list
  minit2i table --solver heun --steps 10
  minit2i table --solver euler --steps 50 --a-min 0.01 -o euler-50.json
  minit2i table --solver ab2 --steps 20 --repeats 4 --jump 5 -o repeated.json
"""

_STUDENT: Final = {
    "omega": "guidance scale of the student (default 12)",
    "t-min": "smallest noise level that is guided (default 0.2)",
    "t-max": "largest noise level that is guided (default 0.8)",
}
# Options that --list excludes.
_COMPILING: Final = (
    "solver", "steps", "a_min", "interval", "clip", "rescale", "shift", "times",
    "omega", "t_min", "t_max", "repeats", "jump", "between", "output",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class SolverTableOptions:
    """Options of minit2i table; None leaves a value to the compiler."""

    list: bool
    solver: str | None
    steps: int | None
    a_min: float | None
    interval: tuple[float, ...] | None
    clip: float | None
    rescale: float | None
    shift: float | None
    times: tuple[float, ...] | None
    omega: float | None
    t_min: float | None
    t_max: float | None
    repeats: int | None
    jump: int | None
    between: tuple[float, ...] | None
    output: Path | None
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Compile a solver to the table of numbers that every runtime follows."
    parser.epilog = _EPILOG
    parser.add_argument("--list", action="store_true", help="list the solvers and stop")
    _add_solver(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help=".json file for generate --table, replaced if it is there",
    )
    add_json(parser)


def _add_solver(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--solver", metavar="NAME", help="solver to compile")
    parser.add_argument("--steps", metavar="N", type=integer, help="intervals of its time grid")
    parser.add_argument(
        "--a-min",
        metavar="A",
        type=number,
        help="floor of the division by 1 - t (default 0.05)",
    )
    parser.add_argument(
        "--interval",
        metavar=("START", "END"),
        nargs=2,
        type=number,
        help="guide only rows with START <= t <= END (default 0 1)",
    )
    parser.add_argument(
        "--clip",
        metavar="C",
        type=number,
        help="bound on each estimate before guidance, for example 1 (default 0: none)",
    )
    parser.add_argument(
        "--rescale",
        metavar="R",
        type=number,
        help="share of guidance rescale, 0 to 1 (default 0)",
    )
    parser.add_argument(
        "--shift",
        metavar="S",
        type=number,
        help="time grid t / (t + S (1 - t)); above 1, more of the steps are near noise",
    )
    parser.add_argument(
        "--times",
        metavar="T,T..",
        type=numbers,
        help="time grid as a list rising from 0 to 1, in place of --steps and --shift",
    )
    _add_repeats(parser)
    for name, what in _STUDENT.items():
        parser.add_argument(f"--{name}", metavar="X", type=number, help=f"mean-flow only: {what}")


def _add_repeats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=integer,
        help="for editing: run each stretch of time so often, going back by adding noise",
    )
    parser.add_argument(
        "--jump",
        metavar="N",
        type=integer,
        help="steps of a stretch (default: those of --between are one)",
    )
    parser.add_argument(
        "--between",
        metavar=("START", "END"),
        nargs=2,
        type=number,
        help="times between which stretches lie (default 0 1)",
    )


def run(options: SolverTableOptions) -> None:
    """List, print or write."""
    if options.list:
        for name in _COMPILING:
            if getattr(options, name) is not None:
                raise UsageError(f"--list and --{name.replace('_', '-')} are mutually exclusive")
        _list(options)
        return
    if options.solver is None or (options.steps is None and options.times is None):
        raise UsageError(
            "expected --solver NAME with --steps N or --times T,T..; --list names the solvers"
        )
    if options.times is not None and options.shift is not None:
        raise UsageError("--times and --shift are mutually exclusive")
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.solvers.table import solver_table

    if options.output is not None:
        output_paths.output_file(options.output, ".json")
    table = solver_table(
        options.solver,
        steps=options.steps,
        a_min=options.a_min,
        interval=(0.0, 1.0)
        if options.interval is None
        else (options.interval[0], options.interval[1]),
        clip=0.0 if options.clip is None else options.clip,
        rescale=0.0 if options.rescale is None else options.rescale,
        grid=_grid(options),
        shift=options.shift,
        omega=options.omega,
        t_min=options.t_min,
        t_max=options.t_max,
        repeats=_repeats(options),
    )
    if options.output is not None:
        table.save(options.output)
        print(f"{options.output}  {table.name}, {len(table)} rows")
    else:
        print(table.to_json().rstrip() if options.json else _text(table))


def _repeats(options: SolverTableOptions) -> Repeats:
    from minit2i_deploy.solvers.repeats import Repeats

    if options.repeats is None:
        for name in ("jump", "between"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name} requires --repeats N")
    start, end = options.between or (0.0, 1.0)
    count = 1 if options.repeats is None else options.repeats
    return Repeats(count=count, jump=options.jump, interval=(start, end))


def _grid(options: SolverTableOptions) -> str | tuple[float, ...]:
    if options.times is not None:
        return options.times
    return "uniform" if options.shift is None else "shifted"


def _list(options: SolverTableOptions) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text
    from minit2i_deploy.solvers.methods import SOLVERS

    solvers = [
        {
            "solver": name,
            "divides": solver.divides,
            "own_grid": solver.fixed_grid is not None,
        }
        for name, solver in SOLVERS.items()
    ]
    if options.json:
        print(json_text(solvers))
        return
    labels = {
        "divides": {True: "takes --a-min", False: "ends on the estimate, no --a-min"},
        "own_grid": {True: "fixed time grid", False: "takes --shift"},
    }
    print(
        columns(
            [
                (str(item["solver"]), *(labels[key][bool(item[key])] for key in labels))
                for item in solvers
            ]
        )
    )


def _text(table: Table) -> str:
    from minit2i_deploy.cli.support.formatting import columns

    rows = [
        (str(index), *(f"{value:.7g}" for value in row))
        for index, row in enumerate(table.rows.tolist())
    ]
    return columns(rows, head=("row", *table.columns))
