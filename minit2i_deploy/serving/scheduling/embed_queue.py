"""Texts that wait for the text encoder, batch in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minit2i_deploy.serving.scheduling.scheduler import QueueFull


@dataclass(kw_only=True, slots=True, eq=False)
class EmbedJob:
    """The texts of one request.

    Args:
        model: name of the bundle.
        num_texts: in the request.
        deadline_s: on the queue's clock.
        payload: the queue never looks at it.
        is_cancelled: whether nobody waits for it any more.
        num_taken: texts that are in a call or were in one.
    """

    model: str
    num_texts: int
    deadline_s: float
    payload: Any = None
    is_cancelled: bool = False
    num_taken: int = 0

    @property
    def num_waiting(self) -> int:
        """Texts that no call has had."""
        return self.num_texts - self.num_taken


@dataclass(frozen=True, kw_only=True, slots=True)
class TextShare:
    """Texts of one request in a call: ``count`` of them from number ``first`` on."""

    job: EmbedJob
    first: int
    count: int


class EmbedQueue:
    """Requests for embeddings in the order they came; not thread-safe.

    Args:
        max_texts: most texts that wait.
        max_batch: most texts in one call; a request with more takes several, and others come
            between them.
        clock: seconds that never run backwards.
    """

    def __init__(self, *, max_texts: int, max_batch: int, clock: Callable[[], float]) -> None:
        self.max_texts, self.max_batch, self._clock = max_texts, max_batch, clock
        self._jobs: deque[EmbedJob] = deque()

    @property
    def num_texts(self) -> int:
        """Texts that wait."""
        return sum(job.num_waiting for job in self._jobs)

    def submit(self, job: EmbedJob) -> None:
        """Add a request.

        Raises:
            QueueFull: there is no room for its texts. An empty queue takes any request.
        """
        ahead = self.num_texts
        if ahead and ahead + job.num_texts > self.max_texts:
            raise QueueFull(
                f"the queue is full: {ahead} texts of at most {self.max_texts} are ahead, and "
                f"{job.num_texts} came; try again in 1 s",
                1,
            )
        self._jobs.append(job)

    def take(self) -> list[TextShare]:
        """Texts of one bundle for the next call of its text encoder, in order."""
        self._jobs = deque(job for job in self._jobs if not job.is_cancelled)
        shares: list[TextShare] = []
        room = self.max_batch
        while self._jobs and (not shares or self._fits(shares[0].job, room)):
            job = self._jobs.popleft()
            share = TextShare(job=job, first=job.num_taken, count=min(room, job.num_waiting))
            shares.append(share)
            job.num_taken += share.count
            room -= share.count
            if job.num_waiting:
                # Behind the others, so that a large request does not hold them up.
                self._jobs.append(job)
        return shares

    def clear(self) -> list[EmbedJob]:
        """Take out every request that somebody waits for, and return them."""
        jobs = [job for job in self._jobs if not job.is_cancelled]
        self._jobs.clear()
        return jobs

    def expire(self) -> list[EmbedJob]:
        """Take out the requests whose deadline has passed, and return them."""
        now = self._clock()
        late = [job for job in self._jobs if job.deadline_s <= now]
        self._jobs = deque(job for job in self._jobs if job.deadline_s > now)
        return late

    def _fits(self, first: EmbedJob, room: int) -> bool:
        job = self._jobs[0]
        return job.model == first.model and job.num_waiting <= room
