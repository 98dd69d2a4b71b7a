"""What the few-step student is told of its sampler: step length, guidance and its interval.

Source: minit2i-jax, branch mean_flow_distill, PixelMeanFlow; the values are the released recipe's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypedDict

from minit2i_deploy.errors import UsageError

MEAN_FLOW: Final = "mean-flow"
RELEASED: Final[Mapping[str, float]] = {"omega": 12.0, "t_min": 0.2, "t_max": 0.8}


class StudentSettings(TypedDict, total=False):
    """What a student paints best with, by the arguments of ``table.solver_table``."""

    omega: float
    t_min: float
    t_max: float


def condition_values(
    solver: str, steps: int, interval: tuple[float, float], given: Mapping[str, float | None]
) -> dict[str, float]:
    """Values of ``table.CONDITION_COLUMNS`` in equal steps; empty for a base model's solver.

    Args:
        solver: name of the solver.
        steps: number of equal steps.
        interval: guidance interval of a base model's solver.
        given: omega, t_min and t_max; None takes the released recipe's.

    Raises:
        UsageError: an argument that this solver does not have.
    """
    if solver != MEAN_FLOW:
        named = [name for name, value in given.items() if value is not None]
        if named:
            raise UsageError(
                f"solver {solver} has no {', '.join(named)}; only {MEAN_FLOW} has, for a student"
            )
        return {}
    if tuple(interval) != (0.0, 1.0):
        raise UsageError(
            f"interval is {interval!r}, but solver {MEAN_FLOW} guides between t_min and t_max; "
            "give those"
        )
    # One h for all rows: differences of the grid's points would vary in the last bit.
    told = {name: RELEASED[name] if value is None else value for name, value in given.items()}
    return {"h": 1.0 / steps, **told}
