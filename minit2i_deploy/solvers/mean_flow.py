"""Conditions of the few-step student's sampler: step length, guidance scale and its interval.

Source: minit2i-jax, branch mean_flow_distill, PixelMeanFlow; the values are the released recipe's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict

from minit2i_deploy.errors import UsageError

MEAN_FLOW: Final = "mean-flow"
RELEASED: Final[Mapping[str, float]] = {"omega": 12.0, "t_min": 0.2, "t_max": 0.8}


class StudentSettings(TypedDict, total=False):
    """A student's conditions, by the arguments of ``table.solver_table``."""

    omega: float
    t_min: float
    t_max: float


def condition_values(
    solver: str,
    conditioned: bool,
    steps: int,
    interval: tuple[float, float],
    settings: Mapping[str, float | None],
) -> dict[str, float]:
    """Values of ``table.CONDITION_COLUMNS`` in equal steps; empty for a base model's solver.

    Args:
        solver: name of the solver.
        conditioned: whether it is a student's.
        steps: number of equal steps.
        interval: guidance interval of a base model's solver.
        settings: omega, t_min and t_max; None takes the released recipe's.

    Raises:
        UsageError: an argument that this solver does not have.
    """
    if not conditioned:
        names = [name for name, value in settings.items() if value is not None]
        if names:
            raise UsageError(
                f"solver {solver} has no {', '.join(names)}; only a student's has, {MEAN_FLOW}"
            )
        return {}
    if tuple(interval) != (0.0, 1.0):
        raise UsageError(
            f"solver {solver} takes no interval, got {interval!r}; a student guides between t_min "
            "and t_max"
        )
    # One h for all rows: differences of the grid's points would vary in the last bit.
    conditions = {"h": 1.0 / steps}
    for name, value in settings.items():
        conditions[name] = RELEASED[name] if value is None else value
    return conditions
