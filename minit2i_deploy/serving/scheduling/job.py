"""One image to generate, as the scheduler sees it."""

from __future__ import annotations

import enum
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any


class JobState(enum.Enum):
    """Where a job is; the last four are ends."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """One image.

    Args:
        model: name of the bundle.
        size: of the image, where it is not the bundle's own; images of two sizes share no call.
        branches: of each row, the sequences it takes: 1 without guidance, 2 with it.
        deadline_s: on the scheduler's clock; it expires then. Infinity: never.
        payload: the scheduler never looks at it.
        submitted_s: on the scheduler's clock, set by ``submit``.
        rows_done: finished rows.
        state: where it is.
    """

    model: str
    branches: Sequence[int]
    size: tuple[int, int] | None = None
    deadline_s: float = math.inf
    payload: Any = None
    submitted_s: float = 0.0
    rows_done: int = 0
    state: JobState = JobState.WAITING
    _cost: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Of each row, the sequences that it and all later ones take.
        total = 0
        self._cost = [total := total + count for count in reversed(self.branches)][::-1]

    @property
    def kind(self) -> Hashable:
        """What calls cost by: bundle and size."""
        return self.model, self.size

    @property
    def is_live(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (JobState.WAITING, JobState.RUNNING)

    @property
    def sequences_ahead(self) -> int:
        """Sequences that the remaining rows take."""
        return self._cost[self.rows_done] if self.rows_done < len(self._cost) else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Images of one bundle and size that advance by a row together."""

    model: str
    jobs: tuple[Job, ...]

    @property
    def num_sequences(self) -> int:
        """Sequences in the call."""
        return sum(job.branches[job.rows_done] for job in self.jobs)
