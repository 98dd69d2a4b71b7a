"""Progress of a build by its phases, and stopping one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from minit2i_deploy.progress import Progress


class Phases:
    """Nested phases with known numbers of steps, as one share that never decreases."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open: dict[str, tuple[int, int]] = {}
        self._share = 0.0
        self._lock = threading.Lock()
        self.stopped = False

    def begin(self, name: str, num_steps: int) -> None:
        """Begin a phase inside those that are open."""
        with self._lock:
            self._open[name] = (0, max(num_steps, 1))

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done; False makes the library stop."""
        with self._lock:
            if name in self._open:
                self._open[name] = (step, self._open[name][1])
            share, width = 0.0, 1.0
            for done, steps in self._open.values():
                width /= steps
                share += min(done, steps) * width
            self._share = max(self._share, min(share, 1.0))
        if not self.stopped:
            self._progress(self._share, name)
        return not self.stopped

    def finish(self) -> None:
        """All is done; libraries do not report the last steps."""
        self._progress(1.0, "done")

    def end(self, name: str) -> None:
        """End a phase."""
        with self._lock:
            self._open.pop(name, None)


def make_monitor(module: Any, phases: Phases) -> Any:
    """An IProgressMonitor of the library; it must live as long as the config."""

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.begin(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.end(phase_name)

    return Monitor()


@contextlib.contextmanager
def stoppable(phases: Phases) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop the library at its next step.

    An exception raised inside its callbacks would pass through C++ code that does not expect any.
    At the end of the block the signal is raised again, for the handler outside.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        phases.stopped = True
        received.append(signum)

    # None is a handler that was not set from Python and cannot be restored; what is ignored, as
    # Ctrl-C is in a shell's background job, stays ignored.
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    untouched = (None, signal.SIG_IGN)
    ours = {number: handler for number, handler in before.items() if handler not in untouched}
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for signum in received[:1]:
            signal.raise_signal(signum)
