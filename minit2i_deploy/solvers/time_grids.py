"""Time grids: the points between which a solver steps, 0 noise to 1 data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float64

from minit2i_deploy.errors import UsageError

MAX_STEPS: Final = 10_000
MAX_SHIFT: Final = 100.0
GRIDS: Final = ("uniform", "shifted")
_LAST_EVALUATION: Final = 0.96


def uniform_grid(steps: int) -> Float64[np.ndarray, " points"]:
    """linspace(0, 1, steps + 1): float64 [steps + 1].

    Source: minit2i-jax, samplers "euler", "heun" and "sde".
    """
    return np.linspace(0.0, 1.0, steps + 1)


def early_grid(steps: int) -> Float64[np.ndarray, " points"]:
    """linspace(0, 0.96, steps) and then 1, so that the last step is long: float64 [steps + 1].

    Source: minit2i-jax, sampler "euler-4e-2".
    """
    return np.append(np.linspace(0.0, _LAST_EVALUATION, steps), 1.0)


def shifted_grid(steps: int, shift: float) -> Float64[np.ndarray, " points"]:
    """t / (t + shift (1 - t)) of the uniform grid: a shift above 1 moves points towards noise.

    Args:
        steps: intervals.
        shift: 1 leaves the grid uniform; 1 / MAX_SHIFT to MAX_SHIFT.

    Returns:
        float64 [steps + 1], from 0 to 1.

    Raises:
        UsageError: shift outside that range.

    Source: Esser et al. 2403.03206 equation 23, whose time is 1 - t.
    """
    if not 1.0 / MAX_SHIFT <= shift <= MAX_SHIFT:
        raise UsageError(f"shift must be from {1 / MAX_SHIFT} to {MAX_SHIFT}, got {shift!r}")
    t = uniform_grid(steps)
    return t / (t + shift * (1.0 - t))


def free_grid(times: Sequence[float] | np.ndarray) -> Float64[np.ndarray, " points"]:
    """A list of times as it is, after checking it: float64 [times].

    Raises:
        UsageError: not 2 to 10001 numbers that rise strictly from 0 to 1.
    """
    try:
        points = np.array(times, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(f"grid must be a list of times from 0 to 1 ({error})") from error
    if points.ndim != 1 or not 2 <= len(points) <= MAX_STEPS + 1:
        raise UsageError(
            f"grid must be a list of 2 to {MAX_STEPS + 1} times, got shape {list(points.shape)}"
        )
    if points[0] != 0.0 or points[-1] != 1.0:
        raise UsageError(f"grid must start at 0 and end at 1, got {points[0]} to {points[-1]}")
    # Written so that NaN, which no comparison holds for, is refused too.
    rising = np.diff(points) > 0.0
    if not rising.all():
        index = int(np.argmin(rising))
        raise UsageError(
            f"grid times must rise strictly, got {points[index + 1]} after {points[index]} at "
            f"position {index + 1}"
        )
    return points


def time_grid(
    grid: str | Sequence[float] | np.ndarray, steps: int | None, shift: float | None
) -> Float64[np.ndarray, " points"]:
    """The points that ``solver_table``'s arguments grid, steps and shift describe.

    Args:
        grid: "uniform", "shifted" or a list of times.
        steps: intervals, 1 to 10000; may be None beside a list.
        shift: for "shifted" only.

    Returns:
        float64 [steps + 1], from exactly 0 to exactly 1, strictly rising.

    Raises:
        UsageError: arguments outside these rules, or that contradict one another.
    """
    name = grid if isinstance(grid, str) else "free"
    if (name == "shifted") != (shift is not None):
        raise UsageError(
            f"grid 'shifted' needs a shift and no other grid takes one, got grid {name!r} and "
            f"shift {shift!r}"
        )
    if not isinstance(grid, str):
        points = free_grid(grid)
        if steps is not None and check_steps(steps) != len(points) - 1:
            raise UsageError(
                f"steps is {steps}, but the grid has {len(points) - 1} intervals; omit steps"
            )
        return points
    if grid not in GRIDS:
        raise UsageError(
            f"grid {grid!r} is unknown; choose one of {', '.join(GRIDS)}, or give a list of times"
        )
    count = check_steps(steps)
    return uniform_grid(count) if shift is None else shifted_grid(count, shift)


def check_steps(steps: int | None) -> int:
    """Check a number of steps and return it.

    Raises:
        UsageError: not an integer from 1 to 10000.
    """
    # bool is a subclass of int.
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MAX_STEPS:
        raise UsageError(f"steps must be an integer from 1 to {MAX_STEPS}, got {steps!r}")
    return steps
