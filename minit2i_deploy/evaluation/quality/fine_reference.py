"""The fine grid that a table is compared with: the same equation, the same end, many steps."""

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
    """What a table approximates, in many equal steps of order 2.

    It ends as the table does: on the estimate where the table's last row gives x' = y, and
    otherwise with the floor of 1 - t that its last row divides by. Share, clip and rescale are
    the table's own, each row's held until the time of the next.

    Args:
        table: what is to be judged.
        steps: of the fine grid, at least four times the table's rows.

    Returns:
        None where the table approximates no solution of the flow that more steps would near: it
        draws fresh noise, belongs to a few-step student, goes back in time, or ends on no Euler
        step.

    Raises:
        UsageError: too few steps to judge this table by.
    """
    if check_steps(steps) < 4 * len(table):
        raise UsageError(
            f"reference steps are {steps}, but table {table.name} has {len(table)} rows; give at "
            f"least {4 * len(table)}, or 0 for no reference"
        )
    t = table.column("t")
    floor = end_floor(table)
    if floor is None or (np.diff(t) < 0).any():
        return None
    # A floor no longer than the last step is no floor.
    fine = solver_table(REFERENCE_SOLVER, steps=steps, a_min=floor or 1.0 / steps)
    rows = np.searchsorted(t, fine.column("t") + _ROUNDING, side="right") - 1
    held = {name: table.column(name)[np.maximum(rows, 0)] for name in ("share", "clip", "rescale")}
    return replace_columns(fine, held, name=fine.name, meta=fine.meta)


def end_floor(table: Table) -> float | None:
    """How a table ends, read off its last row.

    Returns:
        0 where it ends on the estimate; the floor that 1 - t is divided by in an Euler step that
        falls short of it; None where neither can be said of the whole trajectory.
    """
    if table.is_conditioned or table.column("n").any():
        return None
    t, a, b, c = (float(table.column(name)[-1]) for name in "tabc")
    if c or abs(a + b - 1.0) > _ROUNDING or not 0.0 < b <= 1.0 + _ROUNDING:
        return None
    return 0.0 if abs(a) <= _ROUNDING else (1.0 - t) / b
