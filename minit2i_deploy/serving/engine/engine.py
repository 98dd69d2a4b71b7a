"""The engine thread: owns every runtime of a device, and runs what the scheduler chooses.

One thread, because engines compute on all cores or on one GPU anyway, and some refuse any thread
but the one that opened them. Between two rows it embeds the texts that came meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.serving.engine.calls import Model, advance_images, embed_texts, open_model
from minit2i_deploy.serving.engine.memory import IDLE_EVERY_S, MemoryTrimmer
from minit2i_deploy.serving.engine.observer import Observer
from minit2i_deploy.serving.engine.orders import (
    DeadlineExceeded,
    ImageDone,
    ImageFailed,
    ImageOrder,
    ImageTask,
    Stopping,
    TextOrder,
)
from minit2i_deploy.serving.scheduling.embed_queue import EmbedJob, EmbedQueue
from minit2i_deploy.serving.scheduling.job import Batch, Job
from minit2i_deploy.serving.scheduling.scheduler import Scheduler, SchedulerLimits

# How long the thread sleeps at most, so that a deadline passes nearly on time.
_POLL_S: Final = 0.5
# Texts of one call of the text encoder.
TEXT_BATCH: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLimits:
    """Bounds of the engine.

    Args:
        images: of the scheduler.
        max_texts: most texts that wait.
    """

    images: SchedulerLimits
    max_texts: int = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLengths:
    """What is in the queues.

    Args:
        waiting_images: of which no row has run.
        live_images: that wait or run.
        texts: that wait.
    """

    waiting_images: int
    live_images: int
    texts: int


class Engine:
    """Runs images and embeddings of several bundles on one thread.

    Args:
        bundles: by the name that requests use.
        open_runtime: opens one of them; called on the engine's thread.
        limits: bounds.
        observer: is told what happens.
    """

    def __init__(
        self,
        bundles: Mapping[str, Bundle],
        open_runtime: Callable[[Bundle], Runtime],
        limits: EngineLimits,
        observer: Observer | None = None,
    ) -> None:
        self._bundles, self._open_runtime = bundles, open_runtime
        self._observer = observer or Observer()
        self.scheduler = Scheduler(limits.images, time.monotonic)
        self.texts = EmbedQueue(
            max_texts=limits.max_texts, max_batch=TEXT_BATCH, clock=time.monotonic
        )
        self._models: dict[str, Model] = {}
        self._memory = MemoryTrimmer()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._failure: Exception | None = None
        # Until when the remaining work is finished; None: as long as it takes.
        self._stop_at: float | None = None
        self._thread = threading.Thread(target=self._main, name="minit2i-engine", daemon=True)

    def start(self) -> None:
        """Open every bundle, run each graph once, and return when all are ready.

        Raises:
            Minit2iError: a bundle does not open on the engine.
        """
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    @property
    def is_alive(self) -> bool:
        """Whether the thread takes work."""
        return self._thread.is_alive() and self._failure is None

    @property
    def failure(self) -> Exception | None:
        """What ended the thread before its time."""
        return self._failure

    def runtime_name(self, model: str) -> str:
        """Name of the runtime that a bundle is open on."""
        return self._models[model].runtime.name

    def submit_images(self, order: ImageOrder) -> None:
        """Queue the images of a request.

        Raises:
            QueueFull: there is no room.
            Stopping: the engine stops.
        """
        jobs = tuple(
            Job(
                model=order.model,
                size=request.size,
                branches=[len(row.weights) for row in request.rows],
                deadline_s=order.deadline_s,
                payload=ImageTask(order=order, image=index),
            )
            for index, request in enumerate(order.requests)
        )
        with self._changed:
            self._check_open()
            self.scheduler.submit(jobs)
            # Not before: an order that is refused would keep its jobs, and they keep it.
            order.jobs = jobs
            self._changed.notify()

    def submit_texts(self, order: TextOrder) -> EmbedJob:
        """Queue the texts of a request.

        Raises:
            QueueFull: there is no room.
            Stopping: the engine stops.
        """
        job = EmbedJob(
            model=order.model,
            num_texts=len(order.encoded),
            deadline_s=order.deadline_s,
            payload=order,
        )
        with self._changed:
            self._check_open()
            self.texts.submit(job)
            self._changed.notify()
        return job

    def queue_lengths(self) -> QueueLengths:
        """What waits and runs, at one moment."""
        with self._changed:
            return QueueLengths(
                waiting_images=self.scheduler.num_waiting,
                live_images=self.scheduler.num_live,
                texts=self.texts.num_texts,
            )

    def cancel(self, order: ImageOrder) -> None:
        """Drop what remains of an order, also a finished one; no row of it starts after this."""
        with self._changed:
            live = [job for job in order.jobs if job.is_live]
            # Jobs name their order: images would be in memory until Python looks for cycles.
            order.jobs = ()
            for job in live:
                self.scheduler.cancel(job)
        self._count(live)

    def stop(self, drain_s: float) -> None:
        """Take no more work, finish what is there, and close the runtimes.

        Args:
            drain_s: what is not finished by then fails with ``Stopping``.
        """
        with self._changed:
            until = time.monotonic() + drain_s
            self._stop_at = until if self._stop_at is None else min(self._stop_at, until)
            self._changed.notify()
        self._thread.join()

    def _check_open(self) -> None:
        if self._stop_at is not None or not self.is_alive:
            raise Stopping("the server is stopping and takes no new requests; try another one")

    def _main(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                for name, bundle in self._bundles.items():
                    self._models[name] = open_model(bundle, stack, self._open_runtime)
            except Exception as error:  # reported by start
                self._failure = error
                return
            finally:
                self._ready.set()
            try:
                while self._wait_for_work():
                    self._run_texts()
                    self._run_images()
                    self._memory.trim()
            except Exception as error:  # a fault of ours: the server must not look alive
                self._failure = error
            finally:
                self._fail_rest()

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False where the thread is to end."""
        with self._changed:
            while not (self.scheduler.num_live or self.texts.num_texts):
                if self._stop_at is not None:
                    return False
                self._memory.trim(IDLE_EVERY_S)
                self._changed.wait(_POLL_S)
            return self._stop_at is None or time.monotonic() < self._stop_at

    def _run_texts(self) -> None:
        with self._changed:
            late, shares = self.texts.expire(), self.texts.take()
        for job in late:
            job.payload.listener(_late())
        if not shares:
            return
        model = shares[0].job.model
        began = time.perf_counter()
        embed_texts(self._models[model], shares)
        self._observer.texts_done(
            model,
            num_texts=sum(share.count for share in shares),
            seconds=time.perf_counter() - began,
        )

    def _run_images(self) -> None:
        began = time.perf_counter()
        with self._changed:
            late, batch = self.scheduler.expire(), self.scheduler.plan()
        planning_s = time.perf_counter() - began
        for job in late:
            _tell_failure(job, _late())
        self._count(late)
        if batch is not None:
            self._run_batch(batch, planning_s)

    def _run_batch(self, batch: Batch, planning_s: float) -> None:
        call = advance_images(self._models[batch.model], [job.payload for job in batch.jobs])
        failures, seconds = call.failures, call.seconds
        num_sequences = batch.num_sequences
        with self._changed:
            # One that was cancelled meanwhile is nobody's failure.
            failed = [job for job in batch.jobs if job.is_live and id(job.payload) in failures]
            for job in failed:
                self.scheduler.fail(job)
            # Small calls are planned more often, and that is a part of their cost.
            done = self.scheduler.finish(batch, None if failures else planning_s + seconds)
        for job in failed:
            _tell_failure(job, failures[id(job.payload)])
        for job in done:
            task: ImageTask = job.payload
            assert task.state is not None, "a finished image has run"
            task.order.listener(ImageDone(image=task.image, x=task.state.result()))
        self._observer.call_done(
            batch.model, num_images=len(batch.jobs), num_sequences=num_sequences, seconds=seconds
        )
        self._count([*done, *failed])

    def _count(self, jobs: list[Job]) -> None:
        now = time.monotonic()
        for job in jobs:
            self._observer.image_ended(job.model, job.state.value, now - job.submitted_s)

    def _fail_rest(self) -> None:
        """Answer everything that is left, so that no client waits for ever."""
        reason = self._failure or Stopping("the server stopped before this was done; try again")
        error = RuntimeFailure(f"the engine failed: {reason}") if self._failure else reason
        with self._changed:
            self._stop_at = self._stop_at or 0.0
            jobs = self.scheduler.live_jobs()
            for job in jobs:
                self.scheduler.fail(job)
            texts = self.texts.clear()
        for job in jobs:
            _tell_failure(job, error)
        for text in texts:
            text.payload.listener(error)
        self._count(jobs)


def _tell_failure(job: Job, error: Exception) -> None:
    task: ImageTask = job.payload
    task.order.listener(ImageFailed(image=task.image, error=error))


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before this was done; ask for less or wait longer")
