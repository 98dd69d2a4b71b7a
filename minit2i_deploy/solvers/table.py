"""Solver tables: the dataclass with its rules, and the compilation of a solver into one.

A solver is a table: rows of scalars, one denoiser evaluation each.

With y the guided estimate of the clean image, a row does
    x' = a x + b y + c h + n noise        h' = y + s x        (h starts at zero)
so a runtime, in any language, needs no solver and never divides by 1 - t.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float64

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.solvers.mean_flow import condition_values
from minit2i_deploy.solvers.methods import find_solver, solver_floor, solver_points
from minit2i_deploy.solvers.repeats import MAX_ROWS, NO_REPEATS, Repeats, compile_repeats
from minit2i_deploy.solvers.row import GRAPH_COLUMNS, Row
from minit2i_deploy.solvers.table_file import decode_table, encode_table

COLUMNS: Final = ("t", "a", "b", "c", "n", "s", "share", "clip", "rescale")
CONDITION_COLUMNS: Final = ("h", "omega", "t_min", "t_max")
_TIME_ROUNDING: Final = 1e-9
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Table:
    """A compiled solver.

    Args:
        name: letters, digits, dots, dashes and underscores; also its file name in a bundle.
        columns: names of the columns, each of COLUMNS once, in any order; for a few-step student
            also each of CONDITION_COLUMNS.
            t        time of the evaluation, 0 noise to 1 data; the update does not use it
            a b c s  coefficients of the update
            n        coefficient of fresh unit noise, which then takes the place of h (c is 0)
            share    share of guidance: the scale in effect is 1 + (guidance - 1) * share
            clip     bound on every branch's estimate, 0 for none
            rescale  share of guidance rescale, 0 to 1
            h        length of the step, 0 to 1
            omega    guidance scale that conditions the student, 1 or more; share is 0
            t_min    noise levels, 0 data to 1 noise, between which the student guides
            t_max
        rows: float64 [n, columns], finite, copied and made read-only.
        meta: JSON values that say how the table was compiled; no arithmetic uses them.

    Raises:
        UsageError: columns, sizes or values outside these rules.
    """

    name: str
    columns: tuple[str, ...]
    rows: Float64[np.ndarray, "n columns"]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The dataclass is frozen, but an array would not be.
        rows = np.array(self.rows, dtype=np.float64)
        rows.flags.writeable = False
        object.__setattr__(self, "rows", rows)
        _check_layout(self)
        _check_values(self)

    # Not the dataclass's own: arrays compare element by element and have no hash.
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

    def steps(
        self, guidance: float = 1.0, dtype: type[np.floating[Any]] = np.float32
    ) -> tuple[Row, ...]:
        """The rows, in order, as runtimes take them.

        Args:
            guidance: scale of classifier-free guidance; 1 is none. A row's weights are (g, 1 - g),
                or only 1 where g is exactly 1 and a second branch would be computed for nothing.
            dtype: np.float64 for checking the arithmetic itself.

        Raises:
            UsageError: guidance is not finite, in float64 or in the graph's float32.
        """
        t, noise = self.column("t"), self.column("n")
        columns = {name: self.column(name) for name in GRAPH_COLUMNS}
        # Fresh noise comes in the history's slot, so its coefficient in the history's place.
        columns["c"] = np.where(noise != 0, noise, columns["c"])
        values = np.column_stack(list(columns.values())).astype(dtype)
        return tuple(
            Row(
                values=values[index],
                weights=np.array(weights, dtype=dtype),
                index=index,
                t=float(t[index]),
                draws_noise=bool(noise[index]),
            )
            for index, weights in enumerate(_branch_weights(self.column("share"), guidance))
        )

    @property
    def is_conditioned(self) -> bool:
        """Whether the table is for a few-step student: it has CONDITION_COLUMNS."""
        return len(self.columns) > len(COLUMNS)

    @property
    def student_guidance(self) -> float | None:
        """Guidance scale in a few-step student's conditions; None for a base model.

        It takes precedence over a preset's.
        """
        return float(self.column("omega")[0]) if self.is_conditioned else None

    def conditions(self) -> Float64[np.ndarray, "n 4"]:
        """A student's conditions in each row: float64 [n, 4], CONDITION_COLUMNS in that order."""
        return np.column_stack([self.column(name) for name in CONDITION_COLUMNS])

    def to_json(self) -> str:
        """Canonical JSON, one row a line; every float64 comes back exactly."""
        return encode_table(self.name, self.columns, self.rows, self.meta)

    @classmethod
    def from_json(cls, text: str | bytes) -> Table:
        """Read ``to_json``'s form, strictly.

        Raises:
            UsageError: not such JSON, an unknown version or field, or a table outside the rules.
        """
        stored = decode_table(text)
        rows = np.array(stored.rows, dtype=np.float64)
        return cls(name=stored.name, columns=stored.columns, rows=rows, meta=stored.meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Table:
        """Read a table file.

        Raises:
            UsageError: the file is missing or is not a table; the text names the path.
        """
        try:
            return cls.from_json(Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a table file, complete or not at all.

        Raises:
            UsageError: the path cannot be written.
        """
        atomic_write_text(path, self.to_json())


def _branch_weights(share: Float64[np.ndarray, " n"], guidance: float) -> list[list[float]]:
    """Of each row: (g, 1 - g), or 1 alone."""
    rows = []
    # The graph takes float32, where a larger value would become infinity; NaN fails too.
    largest = float(np.finfo(np.float32).max)
    for one in share.tolist():
        scale = 1.0 + (guidance - 1.0) * one
        if not all(abs(value) <= largest for value in (guidance, scale, 1.0 - scale)):
            raise UsageError(
                f"guidance must be finite in float32, got {guidance!r}; 1 is none, 2 to 12 are "
                "usual"
            )
        rows.append([1.0] if scale == 1.0 else [scale, 1.0 - scale])
    return rows


def solver_table(
    solver: str,
    *,
    steps: int | None = None,
    grid: str | Sequence[float] | np.ndarray = "uniform",
    shift: float | None = None,
    a_min: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    clip: float = 0.0,
    rescale: float = 0.0,
    omega: float | None = None,
    t_min: float | None = None,
    t_max: float | None = None,
    start: float = 0.0,
    repeats: Repeats = NO_REPEATS,
) -> Table:
    """Compile a solver of the flow v = (x0 - x) / max(1 - t, a_min) into a table.

    Args:
        solver: a name in ``solvers.SOLVERS``.
        steps: intervals of the time grid, 1 to 10000; may be omitted beside a list of times.
        grid: "uniform", "shifted", or a list of times that rises strictly from 0 to 1.
        shift: of the grid "shifted", t / (t + shift (1 - t)): above 1 moves points towards noise.
        a_min: floor of the division, above 0 and at most 1; None takes 0.05, the reference. A
            solver in x0 form ("dpmpp2m") has no such floor and refuses one.
        interval: guidance applies to rows with interval[0] <= t <= interval[1].
        clip: bound on every branch's estimate, 0 for none.
        rescale: share of guidance rescale, 0 to 1.
        omega: "mean-flow" only: guidance scale in the student's conditions, 1 or more; None takes
            the released recipe's 12.
        t_min: "mean-flow" only: lowest noise level with guidance; None takes 0.2.
        t_max: "mean-flow" only: highest noise level with guidance; None takes 0.8.
        start: time of the first row, below 1; the grid's points after it remain.
        repeats: stretches of time that are run several times, for editing.

    Raises:
        UsageError: an unknown solver (its choices are listed), a number outside its range, or an
            argument that this solver does not have.
    """
    points = solver_points(solver, steps, grid, shift, start)
    floor = solver_floor(solver, a_min)
    first, last = _check_interval(interval)
    # A student's step length is that of the complete grid.
    method, num_steps = find_solver(solver), len(points) - 1 if steps is None else steps
    settings = {"omega": omega, "t_min": t_min, "t_max": t_max}
    conditions = condition_values(solver, method.conditioned, num_steps, interval, settings)
    updates = compile_repeats(repeats, points, floor or 0.0, method.rows)
    t = updates[:, 0]
    share = np.zeros_like(t) if conditions else inside_interval(t, interval).astype(np.float64)
    extra = [share, np.full_like(t, clip), np.full_like(t, rescale)]
    extra += [np.full_like(t, value) for value in conditions.values()]
    suffix, kind = _describe_grid(grid, shift, start)
    guided: dict[str, Any] = conditions or {"interval": [first, last]}
    meta = {"solver": solver, "steps": num_steps, "a_min": floor, **kind, **guided, **repeats.meta}
    return Table(
        name=f"{solver}-{num_steps}{suffix}{repeats.suffix}",
        columns=(*COLUMNS, *conditions),
        rows=np.column_stack([updates, *extra]),
        meta=meta,
    )


def inside_interval(
    t: Float64[np.ndarray, " n"], interval: tuple[float, float]
) -> Bool[np.ndarray, " n"]:
    """Which rows are inside a guidance interval.

    Args:
        t: float64 [n], times of the rows, 0 noise to 1 data.
        interval: start and end, both inside.

    Returns:
        bool [n].

    Raises:
        UsageError: not 0 <= start <= end <= 1.
    """
    first, last = _check_interval(interval)
    # A grid's 0.3 may be the float beside 0.3; the bounds are meant in decimals.
    return (first - _TIME_ROUNDING <= t) & (t <= last + _TIME_ROUNDING)


def _check_interval(interval: tuple[float, float]) -> tuple[float, float]:
    first, last = interval
    if not 0.0 <= first <= last <= 1.0:
        raise UsageError(f"interval must satisfy 0 <= start <= end <= 1, got {interval!r}")
    return first, last


def _describe_grid(
    grid: str | Sequence[float] | np.ndarray, shift: float | None, start: float
) -> tuple[str, dict[str, Any]]:
    """The part of a table's name and meta that names a grid that is not uniform."""
    if start:
        suffix, kind = _describe_grid(grid, shift, 0.0)
        return f"{suffix}-from{start:g}", {**kind, "start": start}
    if not isinstance(grid, str):
        return "-free", {"grid": "free"}
    return ("", {}) if shift is None else (f"-shift{shift:g}", {"grid": grid, "shift": shift})


def _check_layout(table: Table) -> None:
    if not _NAME.fullmatch(table.name):
        raise UsageError(
            f"table name {table.name!r} must be letters, digits, dots, dashes and underscores"
        )
    allowed = (COLUMNS, COLUMNS + CONDITION_COLUMNS)
    if sorted(table.columns) not in [sorted(names) for names in allowed]:
        raise UsageError(
            f"table {table.name!r} has columns {table.columns}, expected each of {COLUMNS} once, "
            f"and for a few-step student each of {CONDITION_COLUMNS}"
        )
    rows = table.rows
    if rows.ndim != 2 or rows.shape[1] != len(table.columns) or not 1 <= len(rows) <= MAX_ROWS:
        raise UsageError(
            f"table {table.name!r} has rows of shape {rows.shape}, expected 1 to {MAX_ROWS} rows "
            f"of {len(table.columns)}"
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
    # Noise comes in the place of h.
    noisy = table.column("n") != 0
    _check(
        table,
        ~noisy | (table.column("c") == 0),
        "c must be 0 where n is not",
    )
    if table.is_conditioned:
        _check_conditions(table)


def _check_conditions(table: Table) -> None:
    h, omega, t_min, t_max = table.conditions().T
    _check(table, (h >= 0) & (h <= 1), "h must be in 0..1")
    _check(table, omega >= 1, "omega must be 1 (no guidance) or more")
    _check(
        table,
        (t_min >= 0) & (t_min <= t_max) & (t_max <= 1),
        "0 <= t_min <= t_max <= 1 must hold",
    )
    # The student is guided through its conditions; a second branch would guide twice.
    _check(table, table.column("share") == 0, "share must be 0 where there is an omega")


def _check(table: Table, good: Bool[np.ndarray, " n"], rule: str) -> None:
    if not good.all():
        raise UsageError(f"table {table.name!r} row {int(np.argmin(good))}: {rule}")
