"""A progress line on stderr for work over two seconds; nothing where stderr is no terminal."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import Final, Self, TextIO

SHORTEST_S: Final = 2.0
_REDRAW_S: Final = 0.1
_WIDTH: Final = 24


class Progress:
    """One line that is drawn over itself and erased at the end.

    It appears once the work is expected to take longer than SHORTEST_S in all.
    """

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title = title
        self.stream = sys.stderr if stream is None else stream
        self._live = self.stream.isatty()
        self._began = time.monotonic()
        self._drawn_at = -math.inf
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            self._write("")

    def update(self, fraction: float, text: str = "") -> None:
        """Show the share that is done, 0 to 1, and a few words on what is going on."""
        now = time.monotonic()
        elapsed = now - self._began
        whole = elapsed / fraction if fraction > 0 else math.inf
        if not self._live or whole < SHORTEST_S or now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at, self._shown = now, True
        filled = round(_WIDTH * min(fraction, 1.0))
        left = f"{whole - elapsed:4.0f} s left" if fraction > 0 else ""
        bar = "#" * filled + "." * (_WIDTH - filled)
        self._write(f"{self.title} [{bar}] {fraction:4.0%} {left} {text}".rstrip())

    def _write(self, line: str) -> None:
        self.stream.write(f"\r\x1b[K{line}")
        self.stream.flush()
