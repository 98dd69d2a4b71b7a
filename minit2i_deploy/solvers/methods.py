"""Solvers of the flow v = (x0 - x) / (1 - t), compiled to rows in float64.

A solver turns the points of a time grid and a_min, the floor of that division, into float64
[rows, 6], columns t, a, b, c, n, s of ``table.COLUMNS``. An entry of SOLVERS adds a solver to
everything, from ``solver_table`` to the command line. Below, y is the guided estimate of x0 and
m = max(1 - t, a_min).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float64

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW
from minit2i_deploy.solvers.time_grids import check_steps, early_grid, time_grid, uniform_grid

REFERENCE_A_MIN: Final = 0.05
"""Floor of 1 - t in the published evaluation of B/16 and in the official PyTorch port."""

# A point this near to a start is the start itself.
_SAME_TIME: Final = 1e-9

Points = Float64[np.ndarray, " points"]
Rows = Float64[np.ndarray, "rows 6"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Solver:
    """How to compile one solver.

    Args:
        rows: (points, a_min) -> rows.
        divides: whether v is formed, so that a_min matters; a solver in x0 form ignores it.
        fixed_grid: steps -> points, where the grid is part of the solver.
        conditioned: whether it is for a few-step student, so that its tables have conditions.
    """

    rows: Callable[[Points, float], Rows]
    divides: bool = True
    fixed_grid: Callable[[int], Points] | None = None
    conditioned: bool = False


def euler(points: Points, a_min: float) -> Rows:
    """x' = x + dt (y - x) / m.

    Source: minit2i-jax, sampler "euler".
    """
    t = points[:-1]
    b = np.diff(points) / np.maximum(1.0 - t, a_min)
    zero = np.zeros_like(t)
    return np.column_stack([t, 1.0 - b, b, zero, zero, zero])


def heun(points: Points, a_min: float) -> Rows:
    """Trapezoid rule, last step Euler: 2 steps - 1 evaluations.

    The first row of a step keeps h = y - x = m v. The second, at the predicted point
    p = x + dt h / m, must give x + dt/2 (h / m + (y - p) / m'), which is
    p + dt/2 ((y - p) / m' - h / m).

    Source: minit2i-jax, sampler "heun"; Heun's method as in any textbook.
    """
    floor = np.maximum(1.0 - points, a_min)
    dt = np.diff(points)
    rows = []
    for i, b in enumerate(dt / floor[:-1]):
        # The second evaluation would be at t = 1, where v has no meaning.
        if i == len(dt) - 1:
            rows.append([points[i], 1.0 - b, b, 0.0, 0.0, 0.0])
            continue
        half = 0.5 * dt[i] / floor[i + 1]
        rows.append([points[i], 1.0 - b, b, 0.0, 0.0, -1.0])
        rows.append([points[i + 1], 1.0 - half, half, -0.5 * b, 0.0, 0.0])
    return np.array(rows)


def sde(points: Points, a_min: float) -> Rows:
    """Euler-Maruyama with diffusion 2 (1 - t), no noise on the last step.

    The score is (t v - x) / (1 - t), and half the diffusion times it adds t v - x to the drift:
    x' = x + dt ((1 + t) v - x) + sqrt(2 (1 - t) dt) noise. That score belongs to start noise of
    deviation 1; the official code uses it with deviation 2 too, and so does this.

    Source: minit2i-jax, sampler "sde"; the equation is that of SiT, Ma et al. 2401.08740.
    """
    t, dt = points[:-1], np.diff(points)
    b = dt * (1.0 + t) / np.maximum(1.0 - t, a_min)
    noise = np.sqrt(2.0 * (1.0 - t) * dt)
    noise[-1] = 0.0
    zero = np.zeros_like(t)
    return np.column_stack([t, 1.0 - dt - b, b, zero, noise, zero])


def ab2(points: Points, a_min: float) -> Rows:
    """Adams-Bashforth of order 2 on v, first and last step Euler: one evaluation a step.

    With r = dt / dt_before, x' = x + dt ((1 + r/2) v - r/2 v_before). Every row keeps
    h = y - x = m v, so v_before is h / m_before. The last step is Euler because only that lands
    on y where a_min allows it.

    Source: the variable-step Adams-Bashforth formula, for example Hairer, Norsett and Wanner,
    Solving Ordinary Differential Equations I, section III.5.
    """
    t, dt = points[:-1], np.diff(points)
    euler_share = dt / np.maximum(1.0 - t, a_min)
    half = np.zeros_like(dt)
    half[1:-1] = 0.5 * dt[1:-1] / dt[:-2]
    b = euler_share * (1.0 + half)
    c = np.zeros_like(dt)
    c[1:] = -half[1:] * dt[1:] * euler_share[:-1] / dt[:-1]
    return np.column_stack([t, 1.0 - b, b, c, np.zeros_like(t), np.full_like(t, -1.0)])


def dpmpp2m(points: Points, a_min: float) -> Rows:
    """DPM-Solver++(2M) in its data-prediction form: one evaluation a step, lands on y.

    Here alpha = t and sigma is proportional to 1 - t, so with lambda = log(t / (1 - t)) and
    g = lambda' - lambda the update (sigma'/sigma) x + alpha' (1 - exp(-g)) D becomes
    (1 - B) x + B D with B = dt / (1 - t), and D = (1 + k) y - k y_before with
    k = g / (2 g_before). Every row keeps h = y. Lambda is minus infinity at t = 0, so k is 0 in
    the first step (no history) and in the second (g_before is infinite); g is infinite in the last
    step, which is of first order and gives x' = y.

    Source: Lu et al. 2211.01095, algorithm 2.
    """
    del a_min
    t, dt = points[:-1], np.diff(points)
    # numpy's logarithm differs in its last bit between processors, and tables are files.
    g = np.diff([math.log(time) - math.log1p(-time) if time > 0 else -math.inf for time in t])
    k = np.zeros_like(dt)
    # 0 in the second step of a table from t = 0, where g before it is infinite.
    k[1:-1] = 0.5 * g[1:] / g[:-1]
    # Exactly 1 in a last step to t = 1, where dt is the same difference.
    share = dt / (1.0 - t)
    zero = np.zeros_like(t)
    return np.column_stack([t, 1.0 - share, share * (1.0 + k), -share * k, zero, zero])


# Letters, digits, dots, dashes and underscores: a name is part of file names.
SOLVERS: Final[dict[str, Solver]] = {
    "euler": Solver(rows=euler),
    "euler-4e-2": Solver(rows=euler, fixed_grid=early_grid),
    "heun": Solver(rows=heun),
    "sde": Solver(rows=sde),
    "ab2": Solver(rows=ab2),
    "dpmpp2m": Solver(rows=dpmpp2m, divides=False),
    # The student's mean velocity is (x0 - x) / m, so its step is Euler's; its h needs equal steps.
    MEAN_FLOW: Solver(rows=euler, fixed_grid=uniform_grid, conditioned=True),
}


def find_solver(name: str) -> Solver:
    """Look up a solver.

    Raises:
        UsageError: the name is unknown; the text lists the choices.
    """
    if name not in SOLVERS:
        raise UsageError(f"solver {name!r} is unknown; choose one of {', '.join(SOLVERS)}")
    return SOLVERS[name]


def solver_points(
    name: str,
    steps: int | None,
    grid: str | Sequence[float] | np.ndarray,
    shift: float | None,
    start: float = 0.0,
) -> Points:
    """The time grid of a solver, from a start time on.

    Raises:
        UsageError: arguments that ``time_grid`` refuses, a grid for a solver with a fixed one, or
            a start outside 0..1, or between the equal steps of a student.
    """
    points = _all_points(name, steps, grid, shift)
    if not 0.0 <= start < 1.0:
        raise UsageError(f"start must be at least 0 and below 1, got {start!r}")
    later = points[points > start + _SAME_TIME]
    if find_solver(name).conditioned and not np.isclose(points, start, atol=_SAME_TIME).any():
        choices = ", ".join(f"{point:.3g}" for point in points[:-1])
        raise UsageError(
            f"start is {start:g}, but the steps of solver {name} are equal; choose one of {choices}"
        )
    return np.concatenate([[start], later]) if start else points


def _all_points(
    name: str, steps: int | None, grid: str | Sequence[float] | np.ndarray, shift: float | None
) -> Points:
    fixed_grid = find_solver(name).fixed_grid
    if fixed_grid is None:
        return time_grid(grid, steps, shift)
    if not isinstance(grid, str) or grid != "uniform" or shift is not None:
        raise UsageError(f"the grid of solver {name} is fixed; omit grid and shift")
    return fixed_grid(check_steps(steps))


def solver_floor(name: str, a_min: float | None) -> float | None:
    """The floor of the division by 1 - t, None for a solver that does not divide.

    Raises:
        UsageError: a_min outside its range, or for a solver that does not divide.
    """
    if not find_solver(name).divides:
        if a_min is not None:
            raise UsageError(f"solver {name} does not divide by 1 - t and takes no a_min; omit it")
        return None
    floor = REFERENCE_A_MIN if a_min is None else a_min
    if not 0.0 < floor <= 1.0:
        raise UsageError(f"a_min must be above 0 and at most 1, got {a_min!r}")
    return floor
