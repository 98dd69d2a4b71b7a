"""Tables with other guidance columns, whatever solver made them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.table import Table, inside_interval

# Guidance at t = 1 alone, where no row is.
_NO_TIME: Final = [1.0, 1.0]
# Key in the meta of a table whose guidance is part of the weights.
_ONE_PASS: Final = "one_pass"


def adjust_guidance(
    table: Table,
    *,
    interval: tuple[float, float] | None = None,
    clip: float | None = None,
    rescale: float | None = None,
) -> Table:
    """A table with other guidance columns, which are then part of its name; None keeps a column.

    Args:
        table: any table; the interval narrows the rows that it guides already.
        interval: guidance stays in rows with interval[0] <= t <= interval[1].
        clip: bound on every branch's estimate, 0 for none.
        rescale: share of guidance rescale, 0 to 1.

    Raises:
        UsageError: a number outside its range, or an interval for a few-step student, which
            guides between t_min and t_max.
    """
    columns: dict[str, np.ndarray] = {}
    suffix, meta = "", dict(table.meta)
    if interval is not None:
        # A product, because the table may already guide in some rows only.
        columns["share"] = table.column("share") * _inside(table, interval)
        suffix, meta["interval"] = f"-i{interval[0]:g}-{interval[1]:g}", list(interval)
        meta.pop(_ONE_PASS, None)
    for name, value in (("clip", clip), ("rescale", rescale)):
        if value is not None:
            columns[name] = np.full(len(table), value)
            suffix, meta[name] = f"{suffix}-{name}{value:g}", value
    return replace_columns(table, columns, name=table.name + suffix, meta=meta)


def one_pass_table(table: Table) -> Table:
    """A base model's table for weights that give the guided estimate in one branch.

    No row has a second branch: guidance applies at t = 1 alone, where no row is. That interval is
    part of the meta, so a table that starts later, in any language, has none either.

    Args:
        table: guided in all rows, or in none; returned as it is in the second case.

    Raises:
        UsageError: only some rows are guided, or the table has guidance rescale, which compares
            two branches.
    """
    share = table.column("share")
    if table.is_conditioned or not (share.any() or table.column("rescale").any()):
        return table
    if table.column("rescale").any():
        raise UsageError(
            f"table {table.name} has guidance rescale, which compares two branches, but these "
            "weights give the guided estimate in one; omit it"
        )
    if not (share == 1).all():
        raise UsageError(
            f"table {table.name} guides some rows only, but guidance is part of these weights; "
            "omit the interval, or use the bundle without the adapter"
        )
    return replace_columns(
        table,
        {"share": np.zeros(len(table))},
        name=f"{table.name}-one-pass",
        meta={**table.meta, "interval": _NO_TIME, _ONE_PASS: True},
    )


def has_requested_interval(table: Table) -> bool:
    """Whether a table's interval was requested, and is not what ``one_pass_table`` writes."""
    return "interval" in table.meta and _ONE_PASS not in table.meta


def replace_columns(
    table: Table, columns: Mapping[str, np.ndarray], *, name: str, meta: Mapping[str, Any]
) -> Table:
    """A copy of a table with some of its columns replaced.

    Args:
        table: any table.
        columns: name -> float64 [n], a value for each row.
        name: of the copy.
        meta: of the copy.

    Raises:
        UsageError: values outside the table's rules.
    """
    rows = table.rows.copy()
    for column, values in columns.items():
        rows[:, table.columns.index(column)] = values
    return dataclasses.replace(table, name=name, rows=rows, meta=meta)


def _inside(table: Table, interval: tuple[float, float]) -> np.ndarray:
    inside = inside_interval(table.column("t"), interval)
    if table.is_conditioned:
        raise UsageError(
            f"table {table.name} is for a few-step student, which takes no interval; compile a "
            "table with other t_min and t_max"
        )
    return inside
