"""Ctrl-C and SIGTERM during a run: noted at once, acted on between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Final

# The handlers that Python itself has for them; an application's own handler is not replaced.
_DEFAULT_HANDLERS: Final[dict[signal.Signals, Any]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


class StopRequest:
    """Notes the first SIGINT or SIGTERM inside its block; a second one acts as it did before.

    Handlers can be set in the main thread only; in another one nothing is noted.

    Attributes:
        signal_number: of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._replaced: list[int] = []

    @property
    def is_made(self) -> bool:
        """Whether a signal has come."""
        return self.signal_number is not None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number, handler in _DEFAULT_HANDLERS.items():
                if signal.getsignal(number) is handler:
                    signal.signal(number, self._note)
                    self._replaced.append(number)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        while self._replaced:
            number = self._replaced.pop()
            signal.signal(number, _DEFAULT_HANDLERS[signal.Signals(number)])


def ignore_stop_signals(worker: int) -> None:
    """For processes that read data: a terminal and a batch system signal the whole group.

    A reader that dies of it would raise an error in the middle of a step.
    """
    for number in _DEFAULT_HANDLERS:
        signal.signal(number, signal.SIG_IGN)
