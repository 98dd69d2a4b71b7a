"""Tables that start after t = 0, from an image that is partly noise."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.guidance import replace_columns
from minit2i_deploy.solvers.repeats import Repeats
from minit2i_deploy.solvers.table import Table, solver_table

_GUIDANCE_COLUMNS: Final = ("clip", "rescale")


def start_table(table: Table, start: float) -> Table:
    """The same solver from a later time on: its state there is an image that is partly noise.

    Args:
        table: of ``solver_table``, perhaps with other guidance columns; its meta names the solver.
        start: time of the first row, 0 noise to 1 data. At 1 one row is left, which changes
            nothing.

    Returns:
        a table whose first row is at ``start``, with the points of the old one after it.

    Raises:
        UsageError: start is not in 0..1, or the table does not say how it was compiled.
    """
    if start == 0.0:
        return table
    if start == 1.0:
        return _unchanged(table)
    meta = dict(table.meta)
    if "solver" not in meta or "steps" not in meta or meta.get("grid") == "free":
        raise UsageError(
            f"table {table.name} does not name its solver and grid, so it cannot start later; "
            "compile one with solver_table"
        )
    later = solver_table(str(meta["solver"]), **_settings(table, meta), start=start)
    columns = {name: np.full(len(later), table.column(name)[0]) for name in _GUIDANCE_COLUMNS}
    return replace_columns(
        later, columns, name=f"{table.name}-from{start:g}", meta={**meta, "start": start}
    )


def _settings(table: Table, meta: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"steps": meta["steps"], "a_min": meta.get("a_min")}
    settings["repeats"] = Repeats.of_meta(meta)
    if table.is_conditioned:
        names = ("omega", "t_min", "t_max")
        return settings | {name: float(table.column(name)[0]) for name in names}
    settings["interval"] = tuple(meta.get("interval", (0.0, 1.0)))
    if "shift" in meta:
        settings |= {"grid": meta["grid"], "shift": meta["shift"]}
    return settings


def _unchanged(table: Table) -> Table:
    """One row x' = x."""
    row: Float64[np.ndarray, "1 columns"] = table.rows[-1:].copy()
    for name, value in {"t": 1.0, "a": 1.0, "share": 0.0}.items():
        row[0, table.columns.index(name)] = value
    for name in ("b", "c", "n", "s"):
        row[0, table.columns.index(name)] = 0.0
    return Table(
        name=f"{table.name}-from1", columns=table.columns, rows=row, meta={**table.meta, "start": 1}
    )
