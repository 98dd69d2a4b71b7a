"""Settings of the meter: number of captions, seed, batch and fine reference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.time_grids import check_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class MeterSettings:
    """Settings that all candidates of a report share.

    Args:
        per_kind: captions of each of the six kinds, at least 1.
        seed: of the captions, and of the first image's noise; the next has seed + 1.
        batch: images generated at once, at least 1. Only the seconds depend on it.
        reference_steps: steps of the fine reference; 0 for none.
        reference_per_kind: captions of each kind that are compared with it, the first ones.

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
                raise UsageError(f"{name}: expected at least 1, got {value}")
        if self.seed < 0:
            raise UsageError(f"seed: expected 0 or more, got {self.seed}")
        if self.reference_steps:
            check_steps(self.reference_steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)
