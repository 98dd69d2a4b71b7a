"""Solvers of the flow v = (x0 - x) / max(1 - t, a_min), compiled to rows in float64.

A solver is a function (steps, a_min) -> float64 [rows, 6], columns t, a, b, c, n, s of
``table.COLUMNS``. Registering it in SOLVERS is all that adding one takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from jaxtyping import Float64

_LAST_EVALUATION: Final = 0.96


def _uniform_grid(steps: int) -> Float64[np.ndarray, " points"]:
    return np.linspace(0.0, 1.0, steps + 1)


def _early_grid(steps: int) -> Float64[np.ndarray, " points"]:
    return np.append(np.linspace(0.0, _LAST_EVALUATION, steps), 1.0)


def _euler_on(grid: Float64[np.ndarray, " points"], a_min: float) -> Float64[np.ndarray, "rows 6"]:
    t = grid[:-1]
    b = np.diff(grid) / np.maximum(1.0 - t, a_min)
    zero = np.zeros_like(t)
    return np.column_stack([t, 1.0 - b, b, zero, zero, zero])


def euler(steps: int, a_min: float) -> Float64[np.ndarray, "rows 6"]:
    """x + dt v on linspace(0, 1, steps + 1).

    Source: minit2i-jax, sampler "euler".
    """
    return _euler_on(_uniform_grid(steps), a_min)


def euler_4e_2(steps: int, a_min: float) -> Float64[np.ndarray, "rows 6"]:
    """Euler on linspace(0, 0.96, steps) and then 1: the last step is long.

    Source: minit2i-jax, sampler "euler_4e_2".
    """
    return _euler_on(_early_grid(steps), a_min)


def heun(steps: int, a_min: float) -> Float64[np.ndarray, "rows 6"]:
    """Trapezoid rule on linspace(0, 1, steps + 1), last step Euler: 2 steps - 1 evaluations.

    With m = max(1 - t, a_min), the first row of a step keeps h = y - x = m v. The second, at the
    predicted point p = x + dt h / m, must give x + dt/2 (h / m + (y - p) / m'), which is
    p + dt/2 ((y - p) / m' - h / m).

    Source: minit2i-jax, sampler "heun"; Heun's method as in any textbook.
    """
    grid = _uniform_grid(steps)
    floor = np.maximum(1.0 - grid, a_min)
    dt = np.diff(grid)
    rows = []
    for i in range(steps):
        b = dt[i] / floor[i]
        if i == steps - 1:
            rows.append([grid[i], 1.0 - b, b, 0.0, 0.0, 0.0])
            continue
        half = 0.5 * dt[i] / floor[i + 1]
        rows.append([grid[i], 1.0 - b, b, 0.0, 0.0, -1.0])
        rows.append([grid[i + 1], 1.0 - half, half, -0.5 * b, 0.0, 0.0])
    return np.array(rows)


Solver = Callable[[int, float], Float64[np.ndarray, "rows 6"]]

SOLVERS: Final[Mapping[str, Solver]] = {
    "euler": euler,
    "euler-4e-2": euler_4e_2,
    "heun": heun,
}
