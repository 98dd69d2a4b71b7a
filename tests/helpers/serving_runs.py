"""A clock that tests move, jobs, and engines of the ready bundles."""

from __future__ import annotations

import atexit
import functools
import math
import queue
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.serving.engine.engine import Engine, EngineLimits
from minit2i_deploy.serving.engine.orders import ImageEvent, ImageOrder, RowDone
from minit2i_deploy.serving.scheduling.job import Job
from minit2i_deploy.serving.scheduling.scheduler import SchedulerLimits

MODELS = ("demo", "demo-student")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@functools.cache
def served_bundles() -> dict[str, Bundle]:
    """The ready bundles by name."""
    folder = Path(tempfile.mkdtemp(prefix="minit2i-serve-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {name: Bundle.open(ready_bundle(name, folder)) for name in MODELS}


def job(model: str = "base", rows: int = 4, branches: int = 1, deadline_s: float = math.inf) -> Job:
    """A job of equal rows."""
    return Job(model=model, branches=[branches] * rows, deadline_s=deadline_s)


def fake_runtime(bundle: Bundle) -> Runtime:
    """A runtime without a network."""
    return open_runtime(bundle, "fake")


def real_runtime(bundle: Bundle) -> Runtime:
    """ONNX Runtime on one thread."""
    return open_runtime(bundle, "onnxruntime", threads=1)


@contextmanager
def running_engine(
    runtime: object = fake_runtime,
    *,
    max_batch: int = 8,
    max_queue: int = 64,
    bundles: Mapping[str, Bundle] | None = None,
) -> Iterator[Engine]:
    """An engine of some bundles, by default the ready ones, that is ready."""
    limits = EngineLimits(images=SchedulerLimits(max_batch=max_batch, max_queue=max_queue))
    engine = Engine(bundles or served_bundles(), runtime, limits)  # type: ignore[arg-type]
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(drain_s=10.0)


class Watcher:
    """Collects an order's events."""

    def __init__(self) -> None:
        self.events: queue.Queue[ImageEvent] = queue.Queue()

    def ends(self, count: int = 1, timeout_s: float = 60.0) -> list[ImageEvent]:
        """The ends of so many images, in the order they came."""
        ends: list[ImageEvent] = []
        while len(ends) < count:
            event = self.events.get(timeout=timeout_s)
            if not isinstance(event, RowDone):
                ends.append(event)
        return ends


def order(
    watcher: Watcher,
    requests: Sequence[Request],
    *,
    model: str = "demo",
    seconds: float = 60.0,
    watched: Sequence[int] = (),
) -> ImageOrder:
    """An order whose events a watcher collects."""
    return ImageOrder(
        model=model,
        requests=requests,
        deadline_s=time.monotonic() + seconds,
        watched_rows=frozenset(watched),
        listener=watcher.events.put,
    )
