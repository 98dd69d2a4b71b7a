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
    """

    model: str
    num_texts: int
    deadline_s: float
    payload: Any = None
    is_cancelled: bool = False


class EmbedQueue:
    """Requests for embeddings in the order they came; not thread-safe.

    Args:
        max_texts: most texts that wait.
        max_batch: most texts in one call; a request with more is a call of its own.
        clock: seconds that never run backwards.
    """

    def __init__(self, *, max_texts: int, max_batch: int, clock: Callable[[], float]) -> None:
        self.max_texts, self.max_batch, self._clock = max_texts, max_batch, clock
        self._jobs: deque[EmbedJob] = deque()

    @property
    def num_texts(self) -> int:
        """Texts that wait."""
        return sum(job.num_texts for job in self._jobs)

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

    def take(self) -> list[EmbedJob]:
        """Requests for one bundle for the next call of its text encoder, in order."""
        self._jobs = deque(job for job in self._jobs if not job.is_cancelled)
        batch: list[EmbedJob] = []
        total = 0
        while self._jobs and (not batch or self._fits(batch[0], total)):
            total += self._jobs[0].num_texts
            batch.append(self._jobs.popleft())
        return batch

    def expire(self) -> list[EmbedJob]:
        """Take out the requests whose deadline has passed, and return them."""
        now = self._clock()
        late = [job for job in self._jobs if job.deadline_s <= now]
        self._jobs = deque(job for job in self._jobs if job.deadline_s > now)
        return late

    def _fits(self, first: EmbedJob, total: int) -> bool:
        job = self._jobs[0]
        return job.model == first.model and total + job.num_texts <= self.max_batch
