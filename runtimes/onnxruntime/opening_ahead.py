"""A session that a thread opens, while the caller does something else.

Opening a denoiser takes one core about a second, for packing its weights. The library releases
Python's lock meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from minit2i_deploy.errors import Minit2iError


class OpeningAhead:
    """One session on its way.

    Args:
        open_session: called in the thread, without arguments.

    Raises:
        RuntimeError: the system starts no further thread.
    """

    def __init__(self, open_session: Callable[[], Any]) -> None:
        self._open_session = open_session
        self._session: Any = None
        self._error: BaseException | None = None
        # Not a daemon: ending the process beside the library's work on it may crash.
        self._thread = threading.Thread(target=self._run, name="minit2i-opening")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._session = self._open_session()
        except BaseException as error:
            self._error = error

    def session(self) -> Any:
        """Wait for the thread; its session, or None where it is to be opened again.

        So the caller sees the warnings of a refusal, and waits itself where another process writes.

        Raises:
            whatever opening it raised besides Minit2iError.
        """
        self._thread.join()
        if self._error is not None and not isinstance(self._error, Minit2iError):
            raise self._error
        return self._session

    def discard(self) -> None:
        """Wait for the thread, and drop what it opened."""
        self._thread.join()
        self._session = None
