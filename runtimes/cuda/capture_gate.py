"""Keeps other threads from CUDA while one of them records a graph.

ONNX Runtime records in CUDA's global mode, in which a call of any thread that may allocate, free or
wait ends the recording, and fails itself. So calls to CUDA hold a share of one gate of the process,
and a recording holds it alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Final


class CaptureGate:
    """Shared by any number of threads, or held alone by one.

    A share may be taken again by the thread that has one. What waits to hold the gate alone goes
    before new shares, so nothing under a share may wait for another thread's call.
    """

    def __init__(self) -> None:
        # Reentrant: a destructor may take a share at any line of this file.
        self._changed = threading.Condition(threading.RLock())
        self._shares: Counter[int] = Counter()
        self._alone: int | None = None
        self._waiting: set[int] = set()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Wait for a recording of another thread, and keep new ones out inside the block."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._is_open_to(me))
            self._add_shares(me, 1)
        try:
            yield
        finally:
            with self._changed:
                self._add_shares(me, -1)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for the calls of all other threads, and keep new ones out inside the block.

        This thread's own shares are given up while it waits, so that two may wait at once.
        """
        me = threading.get_ident()
        with self._changed:
            shares = self._give_up(me)
            self._waiting.add(me)
            try:
                self._changed.wait_for(self._is_unused)
                self._alone = me
            except BaseException:
                self._add_shares(me, shares)
                raise
            finally:
                self._waiting.discard(me)
        try:
            yield
        finally:
            with self._changed:
                self._alone = None
                self._changed.notify_all()
                self._take_back(me, shares)

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Give up this thread's shares inside the block, for what may wait for other threads."""
        me = threading.get_ident()
        with self._changed:
            shares = self._give_up(me)
        try:
            yield
        finally:
            with self._changed:
                self._take_back(me, shares)

    def _give_up(self, thread: int) -> int:
        shares = self._shares.pop(thread, 0)
        self._changed.notify_all()
        return shares

    def _take_back(self, thread: int, shares: int) -> None:
        if not shares:
            return
        try:
            self._changed.wait_for(lambda: self._is_open_to(thread))
        finally:
            # Also where a signal ends the wait: the caller gives them up again.
            self._add_shares(thread, shares)

    def _add_shares(self, thread: int, count: int) -> None:
        self._shares[thread] += count
        if self._shares[thread] <= 0:
            # A destructor between these lines has taken a share and given it up. Less than 0 is a
            # share that a fork was made under, which is none there.
            self._shares.pop(thread, None)
        self._changed.notify_all()

    def _is_unused(self) -> bool:
        # A thread that is about to give up its last share counts as one without.
        return self._alone is None and not self._shares.total()

    def _is_open_to(self, thread: int) -> bool:
        if self._alone == thread or self._shares[thread]:
            return True
        # One that waits lets in its own destructors.
        return self._alone is None and (thread in self._waiting or not self._waiting)


# CUDA's rule is one of the process.
CAPTURE_GATE: Final = CaptureGate()


def drop_beside_recordings(owner: object) -> None:
    """Let go of all that an object has: freeing memory of the device is a call to CUDA."""
    with CAPTURE_GATE.shared():
        owner.__dict__.clear()


if hasattr(os, "register_at_fork"):
    # The threads that hold it do not exist in a fork.
    os.register_at_fork(after_in_child=CAPTURE_GATE.__init__)  # type: ignore[misc]
