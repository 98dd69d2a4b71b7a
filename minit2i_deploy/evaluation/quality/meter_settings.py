"""How much the meter paints, and from which seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.time_grids import check_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class MeterSettings:
    """What all candidates of one report share.

    Args:
        per_kind: captions of each of the six kinds, at least 1.
        seed: of the captions, and of the first picture's noise; the next has seed + 1.
        batch: pictures painted at once, at least 1. No figure but the seconds depends on it.
        reference_steps: of the fine grid that pictures are compared with; 0 for none.
        reference_per_kind: captions a kind that are compared with it, the first ones.

    Raises:
        UsageError: a number outside these ranges.
    """

    per_kind: int
    seed: int = 0
    batch: int = 8
    reference_steps: int = 1000
    reference_per_kind: int = 4

    def __post_init__(self) -> None:
        for name in ("per_kind", "batch", "reference_per_kind"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"{name} is {value}, but at least 1 is needed")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, but it may not be negative")
        if self.reference_steps:
            check_steps(self.reference_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)
