"""A solver is a table: rows of scalars, one denoiser evaluation each.

With y the guided estimate of the clean image, a row does
    x' = a x + b y + c h + n noise        h' = y + s x        (h starts at zero)
so no runtime, in no language, knows a solver or divides by 1 - t.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from minit2i_deploy.decode import decode, parse_json
from minit2i_deploy.errors import UsageError
from minit2i_deploy.files import atomic_write_text
from minit2i_deploy.solvers import SOLVERS

FORMAT_VERSION: Final = 1
COLUMNS: Final = ("t", "a", "b", "c", "n", "s", "share", "clip", "rescale")
GRAPH_COLUMNS: Final = ("a", "b", "c", "s", "clip", "rescale")
MAX_STEPS: Final = 10_000
MAX_ROWS: Final = 2 * MAX_STEPS
STD_FLOOR: Final = 1e-8
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """A compiled solver.

    Args:
        name: letters, digits, dots, dashes and underscores; also its file name in a bundle.
        columns: names of the columns, each of COLUMNS once, in any order.
            t        time of the evaluation, 0 noise to 1 data; for people, no arithmetic uses it
            a b c s  coefficients of the update
            n        coefficient of fresh unit noise, which then takes the place of h (c is 0)
            share    share of guidance: the scale in effect is 1 + (guidance - 1) * share
            clip     bound on every branch's estimate, 0 for none
            rescale  share of guidance rescale, 0 to 1
        rows: float64 [n, columns], finite, copied and made read-only.
        meta: JSON values that say where the table comes from; no arithmetic uses them.

    Raises:
        UsageError: columns, sizes or values outside these rules.
    """

    name: str
    columns: tuple[str, ...]
    rows: Float64[np.ndarray, "n columns"]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = np.array(self.rows, dtype=np.float64)
        rows.flags.writeable = False
        object.__setattr__(self, "rows", rows)
        _check_layout(self)
        _check_values(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> Float64[np.ndarray, " n"]:
        """One column: float64 [n]."""
        column: Float64[np.ndarray, " n"] = self.rows[:, self.columns.index(name)]
        return column

    def to_json(self) -> str:
        """Canonical JSON, one row a line; every float64 comes back exactly."""
        rows = ",\n    ".join(json.dumps(row) for row in self.rows.tolist())
        meta = json.dumps(dict(self.meta), sort_keys=True, allow_nan=False)
        return (
            "{\n"
            f'  "columns": {json.dumps(self.columns)},\n'
            f'  "format_version": {FORMAT_VERSION},\n'
            f'  "meta": {meta},\n'
            f'  "name": {json.dumps(self.name)},\n'
            f'  "rows": [\n    {rows}\n  ]\n'
            "}\n"
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Table:
        """Read ``to_json``'s form, strictly.

        Raises:
            UsageError: not such JSON, an unknown version or field, or a table outside the rules.
        """
        data = text.encode("utf-8") if isinstance(text, str) else text
        try:
            stored: _Stored = decode(_Stored, parse_json(data), "table")
        except ValueError as error:
            raise UsageError(f"not a solver table: {error}") from error
        if stored.format_version != FORMAT_VERSION:
            raise UsageError(
                f"table format_version is {stored.format_version}, but this program reads "
                f"{FORMAT_VERSION}; upgrade minit2i-deploy"
            )
        if len({len(row) for row in stored.rows}) != 1:
            raise UsageError(f"table {stored.name!r}: rows must be there and of one length")
        rows = np.array(stored.rows, dtype=np.float64)
        return cls(name=stored.name, columns=stored.columns, rows=rows, meta=stored.meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Table:
        """Read a table file.

        Raises:
            UsageError: the file is missing or is no table; the path stands in the text.
        """
        try:
            return cls.from_json(Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a table file, whole or not at all.

        Raises:
            UsageError: the place cannot be written.
        """
        atomic_write_text(path, self.to_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stored:
    columns: tuple[str, ...]
    format_version: int
    meta: Mapping[str, object]
    name: str
    rows: tuple[tuple[float, ...], ...]


def step_row(
    table: Table, index: int, dtype: type[np.floating[Any]] = np.float32
) -> Float[np.ndarray, " 6"]:
    """What the step graph takes for one row.

    Args:
        table: the solver.
        index: row, 0 <= index < len(table).
        dtype: np.float64 for checking the arithmetic itself.

    Returns:
        row: [6], GRAPH_COLUMNS: a, b, c, s, clip, rescale. In a row with n != 0 the caller puts
            fresh unit noise into the history slot and c is that n.
    """
    values = dict(zip(table.columns, table.rows[index].tolist(), strict=True))
    if values["n"]:
        values["c"] = values["n"]
    return np.array([values[name] for name in GRAPH_COLUMNS], dtype=dtype)


def guidance_weights(table: Table, index: int, guidance: float) -> Float32[np.ndarray, " branches"]:
    """Weights of the branches in one row, the conditional one first.

    Args:
        table: the solver.
        index: row, 0 <= index < len(table).
        guidance: scale of classifier-free guidance; 1 is none.

    Returns:
        weights: float32 [2], (g, 1 - g), or [1] holding 1 where g is exactly 1 and the second
            branch would be computed for nothing.

    Raises:
        UsageError: guidance is not finite.
    """
    if not np.isfinite(guidance):
        raise UsageError(f"guidance is {guidance!r}, but a finite number is needed")
    scale = 1.0 + (guidance - 1.0) * float(table.column("share")[index])
    return np.array([1.0] if scale == 1.0 else [scale, 1.0 - scale], dtype=np.float32)


def advance(
    x: Float[np.ndarray, "batch 3 height width"],
    h: Float[np.ndarray, "batch 3 height width"],
    x0: Float[np.ndarray, "branches batch 3 height width"],
    weights: Float[np.ndarray, " branches"],
    row: Float[np.ndarray, " 6"],
) -> tuple[
    Float[np.ndarray, "batch 3 height width"],
    Float[np.ndarray, "batch 3 height width"],
]:
    """Do one row in numpy: the arithmetic inside the step graph, and its test oracle.

    Args:
        x: float32 [batch, 3, H, W], the noisy image.
        h: float32 [batch, 3, H, W], the history slot, or unit noise where the row takes noise.
        x0: float32 [branches, batch, 3, H, W], each branch's estimate of the clean image.
        weights: float32 [branches], conditional branch first.
        row: float32 [6], GRAPH_COLUMNS.

    All five may be float64 together, to check a table rather than a graph.

    Returns:
        x', h': the next state and history, shaped and typed as x.

    Raises:
        UsageError: the arrays are not of one dtype, which would change the rounding silently.

    Source: guidance, Ho and Salimans 2207.12598; rescale, Lin et al. 2305.08891 equations 15 and
    16, here on x0 and over channels, height and width.
    """
    dtypes = {str(array.dtype) for array in (x, h, x0, weights, row)}
    if len(dtypes) != 1:
        raise UsageError(f"advance got {sorted(dtypes)}, but arrays of one dtype are needed")
    a, b, c, s, clip, rescale = row
    if clip > 0:
        x0 = np.clip(x0, -clip, clip)
    y = (weights[:, None, None, None, None] * x0).sum(axis=0)
    if rescale > 0:
        spread, wanted = (v.std(axis=(1, 2, 3), keepdims=True) for v in (y, x0[0]))
        y = y * (1 + rescale * (wanted / np.maximum(spread, x.dtype.type(STD_FLOOR)) - 1))
    return a * x + b * y + c * h, y + s * x


def solver_table(
    solver: str,
    *,
    steps: int,
    a_min: float = 0.05,
    interval: tuple[float, float] = (0.0, 1.0),
    clip: float = 0.0,
    rescale: float = 0.0,
) -> Table:
    """Compile a solver of the flow v = (x0 - x) / max(1 - t, a_min) into a table.

    Args:
        solver: a name in ``solvers.SOLVERS``.
        steps: intervals of the time grid, 1 to 10000.
        a_min: floor of the division, above 0 and at most 1.
        interval: guidance applies to rows with interval[0] <= t <= interval[1].
        clip: bound on every branch's estimate, 0 for none.
        rescale: share of guidance rescale, 0 to 1.

    Raises:
        UsageError: an unknown solver (its choices are listed) or a number outside its range.
    """
    if solver not in SOLVERS:
        raise UsageError(f"solver {solver!r} is unknown; choose one of {', '.join(SOLVERS)}")
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"steps is {steps!r}, but a whole number from 1 to {MAX_STEPS} is needed")
    if not 0.0 < a_min <= 1.0:
        raise UsageError(f"a_min is {a_min!r}, but a number above 0 and at most 1 is needed")
    first, last = interval
    if not 0.0 <= first <= last <= 1.0:
        raise UsageError(f"interval is {interval!r}, but 0 <= start <= end <= 1 is needed")
    updates = SOLVERS[solver](steps, a_min)
    t = updates[:, 0]
    share = ((first <= t) & (t <= last)).astype(np.float64)
    extra = [share, np.full_like(t, clip), np.full_like(t, rescale)]
    return Table(
        name=f"{solver}-{steps}",
        columns=COLUMNS,
        rows=np.column_stack([updates, *extra]),
        meta={"solver": solver, "steps": steps, "a_min": a_min, "interval": [first, last]},
    )


def _check_layout(table: Table) -> None:
    if not _NAME.fullmatch(table.name):
        raise UsageError(
            f"table name {table.name!r} must be letters, digits, dots, dashes and underscores"
        )
    unknown, missing = set(table.columns) - set(COLUMNS), set(COLUMNS) - set(table.columns)
    if unknown or missing or len(table.columns) != len(COLUMNS):
        raise UsageError(
            f"table {table.name!r} has columns {table.columns}, but each of {COLUMNS} is needed "
            "once"
        )
    rows = table.rows
    if rows.ndim != 2 or rows.shape[1] != len(COLUMNS) or not 1 <= len(rows) <= MAX_ROWS:
        raise UsageError(
            f"table {table.name!r} has rows of shape {rows.shape}, but 1 to {MAX_ROWS} rows of "
            f"{len(COLUMNS)} are needed"
        )


def _check_values(table: Table) -> None:
    # The graph takes float32, where a larger value would become infinity.
    largest = float(np.finfo(np.float32).max)
    _check(table, np.isfinite(table.rows).all(axis=1), "every value must be finite")
    _check(table, (np.abs(table.rows) <= largest).all(axis=1), "every value must fit float32")
    t, clip, rescale = (table.column(name) for name in ("t", "clip", "rescale"))
    _check(table, (t >= 0) & (t <= 1), "t must be in 0..1")
    _check(table, clip >= 0, "clip must be 0 (off) or positive")
    _check(table, (rescale >= 0) & (rescale <= 1), "rescale must be in 0..1")
    noisy = table.column("n") != 0
    _check(table, ~noisy | (table.column("c") == 0), "noise takes the place of h, so c must be 0")


def _check(table: Table, good: Bool[np.ndarray, " n"], rule: str) -> None:
    if not good.all():
        raise UsageError(f"table {table.name!r} row {int(np.argmin(good))}: {rule}")
