"""minit2i table: a solver, compiled."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.options import add_json, numbers
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.solvers.table import Table

_EPILOG: Final = """\
One row is one evaluation of the denoiser; y is its guided estimate of the
clean picture:
  x' = a x + b y + c h + n noise        h' = y + s x

examples:
  minit2i table --list
  minit2i table --solver heun --steps 10
  minit2i table --solver euler --steps 50 --a-min 0.01 -o euler-50.json
"""

_STUDENT: Final = {
    "omega": "guidance that the student is told (default 12)",
    "t-min": "least noise level that it guides (default 0.2)",
    "t-max": "greatest noise level that it guides (default 0.8)",
}
# What --list has no use for.
_COMPILING: Final = (
    "solver", "steps", "a_min", "interval", "clip", "rescale", "shift", "times",
    "omega", "t_min", "t_max", "output",
)  # fmt: skip


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
    parser.add_argument("--steps", metavar="N", type=int, help="intervals of its time grid")
    parser.add_argument(
        "--a-min",
        metavar="A",
        type=float,
        help="floor of the division by 1 - t (default 0.05)",
    )
    parser.add_argument(
        "--interval",
        metavar=("START", "END"),
        nargs=2,
        type=float,
        help="guide only rows with START <= t <= END (default 0 1)",
    )
    parser.add_argument(
        "--clip",
        metavar="C",
        type=float,
        help="bound on each estimate before guidance, for example 1 (default 0: none)",
    )
    parser.add_argument(
        "--rescale",
        metavar="R",
        type=float,
        help="share of guidance rescale, 0 to 1 (default 0)",
    )
    parser.add_argument(
        "--shift",
        metavar="S",
        type=float,
        help="time grid t / (t + S (1 - t)): above 1 more of the steps are near noise",
    )
    parser.add_argument(
        "--times",
        metavar="T,T..",
        type=numbers,
        help="time grid of your own, rising from 0 to 1, in place of --steps and --shift",
    )
    for name, what in _STUDENT.items():
        parser.add_argument(f"--{name}", metavar="X", type=float, help=f"mean-flow only: {what}")


def run(options: argparse.Namespace) -> None:
    """List, print or write."""
    if options.list:
        for name in _COMPILING:
            if getattr(options, name) is not None:
                raise UsageError(f"--list came with --{name.replace('_', '-')}; give one of them")
        _list(options)
        return
    if options.solver is None or (options.steps is None and options.times is None):
        raise UsageError(
            "--solver NAME and --steps N are needed, or --times; --list names the solvers"
        )
    if options.times is not None and options.shift is not None:
        raise UsageError("--times came with --shift; give one or the other")
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.solvers.table import solver_table

    if options.output is not None:
        output_paths.output_file(options.output, ".json")
    table = solver_table(
        options.solver,
        steps=options.steps,
        a_min=options.a_min,
        interval=(0.0, 1.0) if options.interval is None else tuple(options.interval),
        clip=0.0 if options.clip is None else options.clip,
        rescale=0.0 if options.rescale is None else options.rescale,
        grid=_grid(options),
        shift=options.shift,
        omega=options.omega,
        t_min=options.t_min,
        t_max=options.t_max,
    )
    if options.output is not None:
        table.save(options.output)
        print(f"{options.output}  {table.name}, {len(table)} rows")
    else:
        print(table.to_json().rstrip() if options.json else _text(table))


def _grid(options: argparse.Namespace) -> str | tuple[float, ...]:
    if options.times is not None:
        times: tuple[float, ...] = options.times
        return times
    return "uniform" if options.shift is None else "shifted"


def _list(options: argparse.Namespace) -> None:
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
    words = {
        "divides": {True: "takes --a-min", False: "lands on the estimate, no --a-min"},
        "own_grid": {True: "time grid of its own", False: "takes --shift"},
    }
    print(
        columns(
            [
                (str(item["solver"]), *(words[key][bool(item[key])] for key in words))
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
