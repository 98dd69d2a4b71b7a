"""Progress of long work: the type of the callback, ways to combine them, the line on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, Self, TextIO, runtime_checkable

SHORTEST_S: Final = 2.0
LOG_EVERY_S: Final = 30.0
_REDRAW_S: Final = 0.1
_BAR_CHARS: Final = 24


@runtime_checkable
class Progress(Protocol):
    """A callback for long work: the share that is done, 0 to 1, and a few words on the stage."""

    def __call__(self, share: float, label: str = "", /) -> None: ...


def no_progress(share: float, label: str = "", /) -> None:
    """Report to nobody."""


def stage_of(progress: Progress, start: float, stop: float, name: str = "") -> Progress:
    """Progress of one stage, given as its own share, as a share of the work it is part of.

    Args:
        progress: of all work.
        start: share of the work that is done when the stage begins.
        stop: share of the work that is done when it ends.
        name: of the stage, put before the labels of what runs in it.
    """

    def report(share: float, label: str = "", /) -> None:
        progress(start + (stop - start) * share, ": ".join(filter(None, (name, label))))

    return report


def by_count(progress: Progress, label: str = "") -> Callable[[int, int], None]:
    """Progress given as things that are done and their total, as ``generate`` gives its rows."""
    return lambda done, total: progress(done / total if total else 1.0, label)


class ProgressLine:
    """Progress on a stream: one line drawn over itself on a terminal, plain lines elsewhere.

    On a terminal the line appears once the work is expected to take longer than SHORTEST_S in
    all, and is erased at the end. On anything else, such as a log file, a plain line is written
    every ``log_every_s`` seconds, so short work writes nothing.

    Args:
        title: of the work.
        stream: stderr unless given.
        start: share that was done before, by a run that this one resumes.
        log_ends: also write the first and the last plain line, however short the work is.
        log_every_s: seconds between plain lines.
    """

    def __init__(
        self,
        title: str,
        stream: TextIO | None = None,
        *,
        start: float = 0.0,
        log_ends: bool = False,
        log_every_s: float = LOG_EVERY_S,
    ) -> None:
        self.title = title
        self.stream = sys.stderr if stream is None else stream
        self._start, self._log_ends, self._log_every_s = start, log_ends, log_every_s
        self._is_terminal = self.stream.isatty()
        # The wall clock may be set while the work runs.
        self._began = time.monotonic()
        self._drawn_at = -math.inf
        self._logged_at = -math.inf if log_ends else self._began
        self._is_drawn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Erase the line from a terminal."""
        if self._is_drawn:
            self._draw("")

    def __call__(self, share: float, label: str = "", /) -> None:
        """Show the share that is done, 0 to 1, and a few words on what is going on."""
        now = time.monotonic()
        elapsed_s = now - self._began
        # What an earlier run did took none of this run's time.
        done = share - self._start
        total_s = elapsed_s * (1.0 - self._start) / done if done > 0 else math.inf
        if not self._is_terminal:
            self._log(now, share, total_s - elapsed_s, label)
        elif total_s >= SHORTEST_S and now - self._drawn_at >= _REDRAW_S:
            self._drawn_at, self._is_drawn = now, True
            filled = round(_BAR_CHARS * min(share, 1.0))
            bar = "#" * filled + "." * (_BAR_CHARS - filled)
            remaining = f"{total_s - elapsed_s:4.0f} s left" if done > 0 else ""
            self._draw(f"{self.title} [{bar}] {share:4.0%} {remaining} {label}".rstrip())

    def _log(self, now: float, share: float, remaining_s: float, label: str) -> None:
        is_last = self._log_ends and share >= 1.0
        if now - self._logged_at < self._log_every_s and not is_last:
            return
        self._logged_at = now
        times = f"elapsed={now - self._began:.0f}s"
        if math.isfinite(remaining_s):
            times += f" left={remaining_s:.0f}s"
        self.stream.write(" ".join(filter(None, (self.title, f"{share:.0%}", label, times))) + "\n")
        self.stream.flush()

    def _draw(self, line: str) -> None:
        self.stream.write(f"\r\x1b[K{line}")
        self.stream.flush()
