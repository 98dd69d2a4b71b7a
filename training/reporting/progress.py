"""One progress line on stderr, silent when it is not a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from minit2i_deploy.errors import require


class Progress:
    """A tqdm bar that shows the last values of a few named figures.

    On a stream that is not a terminal it writes one plain line every ``log_every_s`` seconds if
    that is given, and nothing otherwise.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        start: int = 0,
        log_every_s: float | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self.title, self.total, self.log_every_s = title, total, log_every_s
        self.stream = sys.stderr if stream is None else stream
        self._start, self._began, self._logged = start, time.monotonic(), 0.0
        self._bar = require("tqdm", "train").tqdm(
            desc=title,
            total=total,
            initial=start,
            file=self.stream,
            disable=not self.stream.isatty(),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self, done: int, **figures: float) -> None:
        """Show that ``done`` of ``total`` steps are finished, with figures such as the loss."""
        text = " ".join(f"{name}={value:.4g}" for name, value in figures.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if self.log_every_s is None or (
            now - self._logged < self.log_every_s and done < self.total
        ):
            return
        self._logged = now
        elapsed = now - self._began
        left = elapsed / max(done - self._start, 1) * (self.total - done)
        line = f"{self.title} {done}/{self.total} {text} elapsed={elapsed:.0f}s left={left:.0f}s\n"
        self.stream.write(line)
        self.stream.flush()
