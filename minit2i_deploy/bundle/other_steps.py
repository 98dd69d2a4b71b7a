"""The table of a preset with another number of steps."""

from __future__ import annotations

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.repeats import Repeats
from minit2i_deploy.solvers.table import Table


def with_steps(bundle: Bundle, table: Table, steps: int) -> Table:
    """A table's solver, floor, time grid and guidance columns at another number of steps.

    Args:
        bundle: whose floor and conditions apply.
        table: of that bundle, or compiled for it.
        steps: of the solver.

    Raises:
        UsageError: the table does not say what it was compiled from, a guidance column differs
            between its rows, or the solver refuses that many steps.
    """
    meta = table.meta
    solver = meta.get("solver")
    if not isinstance(solver, str) or meta.get("grid") == "free":
        raise UsageError(
            f"table {table.name} names no solver and time grid that could be compiled with other "
            "steps"
        )
    other = bundle.compile_table(
        solver,
        steps,
        grid=meta.get("grid", "uniform"),
        shift=meta.get("shift"),
        a_min=meta.get("a_min"),
        repeats=Repeats.of_meta(meta),
    )
    interval = meta.get("interval")
    if interval == other.meta.get("interval"):
        interval = None
    return adjust_guidance(
        other,
        interval=None if interval is None else (interval[0], interval[1]),
        clip=_shared_value(table, "clip"),
        rescale=_shared_value(table, "rescale"),
    )


def _shared_value(table: Table, column: str) -> float | None:
    """The value of every row of a guidance column, None where it is 0 and does nothing."""
    values = table.column(column)
    if (values != values[0]).any():
        raise UsageError(f"{column} of table {table.name} varies")
    return float(values[0]) or None
