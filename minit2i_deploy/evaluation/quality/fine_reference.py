"""Fine reference of a table: the same equation and the same end, in many small steps."""

from __future__ import annotations

from typing import Final

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.guidance import replace_columns
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.solvers.time_grids import check_steps

REFERENCE_SOLVER: Final = "ab2"
_ROUNDING: Final = 1e-9


def fine_table(table: Table, steps: int) -> Table | None:
    """The solution that a table approximates, in many equal steps of order 2.

    It ends as the table does: on the estimate if the table's last row gives x' = y, otherwise
    with the floor of 1 - t that its last row divides by. Share, clip and rescale are those of the
    table, constant from the time of a row to that of the next.

    Args:
        table: what the reference is for.
        steps: of the fine grid, at least four times the table's rows.

    Returns:
        None if the table does not converge to a solution of the flow: it draws fresh noise,
        belongs to a few-step student, goes back in time, or does not end on an Euler step.

    Raises:
        UsageError: too few steps for this table.
    """
    if check_steps(steps) < 4 * len(table):
        raise UsageError(
            f"reference steps: expected at least {4 * len(table)} for the {len(table)} rows of "
            f"table {table.name}, got {steps}; 0 is no reference"
        )
    t = table.column("t")
    floor = end_floor(table)
    if floor is None or (np.diff(t) < 0).any():
        return None
    # A floor of at most the last step's length never applies.
    fine = solver_table(REFERENCE_SOLVER, steps=steps, a_min=floor or 1.0 / steps)
    rows = np.searchsorted(t, fine.column("t") + _ROUNDING, side="right") - 1
    columns = {
        name: table.column(name)[np.maximum(rows, 0)] for name in ("share", "clip", "rescale")
    }
    return replace_columns(fine, columns, name=fine.name, meta=fine.meta)


def end_floor(table: Table) -> float | None:
    """How a table ends, from its last row.

    Returns:
        0 if it ends on the estimate; the floor of 1 - t in an Euler step that falls short of it;
        None if neither describes the trajectory.
    """
    if table.is_conditioned or table.column("n").any():
        return None
    t, a, b, c = (float(table.column(name)[-1]) for name in "tabc")
    if c or abs(a + b - 1.0) > _ROUNDING or not 0.0 < b <= 1.0 + _ROUNDING:
        return None
    return 0.0 if abs(a) <= _ROUNDING else (1.0 - t) / b
