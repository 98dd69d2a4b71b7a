"""In-flight batching: after each row, the images of the next call are chosen anew.

The network never sees the time, so images at different rows, under different solvers and guidance
scales may share a call. The scheduler therefore decides before every row. The image with the least
work ahead leads, so a four-row student waits for a row of a hundred-row image and not for all of
it. Waiting counts as if work were done, so nothing starves. Other images of the leader's bundle
and size fill the call, up to the size at which more would make none of them cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.serving.scheduling.costs import CostModel
from minit2i_deploy.serving.scheduling.job import Batch, Job, JobState

# A second of waiting counts as this many seconds of finished work. Shorter images overtake a long
# one for at most its own seconds divided by this.
PATIENCE: Final = 0.05


class QueueFull(Minit2iError):
    """More images wait than the queue takes.

    Args:
        text: one line.
        retry_after_s: when there should be room.
    """

    def __init__(self, text: str, retry_after_s: int) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerLimits:
    """Bounds of the scheduler.

    Args:
        max_batch: most images in one call.
        max_queue: most images that wait or run.
    """

    max_batch: int = 8
    max_queue: int = 64


class Scheduler:
    """Chooses the images of each call; not thread-safe.

    Args:
        limits: bounds.
        clock: seconds that never run backwards.
    """

    def __init__(self, limits: SchedulerLimits, clock: Callable[[], float]) -> None:
        self.limits, self._clock = limits, clock
        self._jobs: list[Job] = []
        self.costs = CostModel()

    @property
    def num_live(self) -> int:
        """Images that wait or run."""
        return len(self._jobs)

    @property
    def num_waiting(self) -> int:
        """Images of which no row has run."""
        return sum(job.state is JobState.WAITING for job in self._jobs)

    def live_jobs(self) -> list[Job]:
        """Images that wait or run, in the order they came."""
        return list(self._jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Add the images of one request, all of them or none.

        Raises:
            QueueFull: there is no room for all.
        """
        if len(self._jobs) + len(jobs) > self.limits.max_queue:
            after = max(1, math.ceil(self.backlog_s()))
            raise QueueFull(
                f"the queue is full: {len(self._jobs)} images of at most {self.limits.max_queue} "
                f"are ahead, and {len(jobs)} came; try again in {after} s",
                after,
            )
        for job in jobs:
            job.submitted_s = self._clock()
        self._jobs += jobs

    def cancel(self, job: Job) -> None:
        """Take an image out before its next row; without effect after its end."""
        self._end(job, JobState.CANCELLED)

    def fail(self, job: Job) -> None:
        """Take an image out that cannot be generated; without effect after its end."""
        self._end(job, JobState.FAILED)

    def expire(self) -> list[Job]:
        """Take out the images whose deadline has passed, and return them."""
        now = self._clock()
        late = [job for job in self._jobs if job.deadline_s <= now]
        for job in late:
            self._end(job, JobState.EXPIRED)
        return late

    def plan(self) -> Batch | None:
        """The images of the next call, or None where there are none."""
        if not self._jobs:
            return None
        order = self._by_priority()
        lead = order[0]
        jobs = self._fill([job for job in order if job.kind == lead.kind])
        for job in jobs:
            job.state = JobState.RUNNING
        return Batch(model=lead.model, jobs=tuple(jobs))

    def finish(self, batch: Batch, seconds: float | None) -> list[Job]:
        """Count a row of every image in a call that is still live, and return the finished ones.

        Args:
            batch: of ``plan``.
            seconds: the call took; None where images of it failed, which says nothing of others.
        """
        if seconds is not None:
            self.costs.learn(batch.jobs[0].kind, batch.num_sequences, seconds)
        done = []
        for job in batch.jobs:
            if not job.is_live:
                continue
            job.rows_done += 1
            if job.rows_done == len(job.branches):
                self._end(job, JobState.DONE)
                done.append(job)
        return done

    def backlog_s(self) -> float:
        """Seconds until everything that waits or runs is done, by the measured costs."""
        cost = self._sequence_costs()
        return sum(job.sequences_ahead * cost[job.kind] for job in self._jobs)

    def _fill(self, order: Sequence[Job]) -> list[Job]:
        """As many of the first jobs as fit in a call, at least one."""
        # Where more images wait than a call takes, all of them gain from the cheapest calls.
        is_crowded = len(order) > self.limits.max_batch
        room = self.costs.efficient_size(order[0].kind, crowded=is_crowded)
        jobs: list[Job] = []
        for job in order[: self.limits.max_batch]:
            room -= job.branches[job.rows_done]
            if jobs and room < 0:
                break
            jobs.append(job)
        return jobs

    def _by_priority(self) -> list[Job]:
        """All jobs, the one that is to lead first."""
        now, cost = self._clock(), self._sequence_costs()

        def key(job: Job) -> tuple[float, float]:
            remaining_s = job.sequences_ahead * cost[job.kind]
            return remaining_s - PATIENCE * (now - job.submitted_s), job.submitted_s

        return sorted(self._jobs, key=key)

    def _sequence_costs(self) -> dict[Hashable, float]:
        """Seconds of a sequence by kind, once for all jobs: planning is a part of every call."""
        return {kind: self.costs.sequence_s(kind) for kind in {job.kind for job in self._jobs}}

    def _end(self, job: Job, state: JobState) -> None:
        if job.is_live and job in self._jobs:
            self._jobs.remove(job)
            job.state = state
