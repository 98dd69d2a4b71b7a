"""One call at a time: the lock of an open runtime, its end, and the process that it belongs to.

Engines keep what a call needs in places that the next call writes to, and their threads do not
follow a fork. So a runtime and its trajectories share a guard, which takes the calls of several
threads one after another, and refuses those of a process that did not open the runtime.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.runtimes.cuda.capture_gate import CAPTURE_GATE, drop_beside_recordings

P = ParamSpec("P")
R = TypeVar("R")


class Guard:
    """Admits one thread at a time, as long as the runtime is open.

    Args:
        name: of the runtime, for errors.
        owner: the runtime; it is kept alive in forks of this process.

    ``uses_cuda`` keeps its calls out of recordings of CUDA graphs by other threads.
    """

    def __init__(self, name: str, owner: object) -> None:
        self.is_open = True
        self.uses_cuda = False
        self._name = name
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._owner = weakref.ref(owner)
        _guards.add(self)

    @property
    def is_inherited(self) -> bool:
        """Whether this process is a fork of the one that opened the runtime."""
        return os.getpid() != self._process

    def check(self) -> None:
        """Refuse a runtime that is closed or was opened before a fork.

        Raises:
            RuntimeFailure: one of the two.
        """
        if not self.is_open:
            raise RuntimeFailure(f"runtime {self._name} is closed; open it again")
        if self.is_inherited:
            raise RuntimeFailure(
                f"runtime {self._name} was opened in process {self._process} and cannot be used in "
                f"its fork {os.getpid()}; open a runtime in each process, after the fork"
            )

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Wait for calls of other threads, and keep them out inside the block.

        Raises:
            RuntimeFailure: as ``check``.
        """
        # Before the lock: a thread that held it at the fork does not exist in the child.
        self.check()
        with self._lock:
            self.check()
            with self.beside_recordings():
                yield

    def beside_recordings(self) -> contextlib.AbstractContextManager[None]:
        """What a block that calls CUDA is run in, also where it is no call of the runtime."""
        return CAPTURE_GATE.shared() if self.uses_cuda else contextlib.nullcontext()

    def outside_shares(self, callback: Callable[P, R]) -> Callable[P, R]:
        """A caller's function that may wait for other threads, also where those record."""
        if not self.uses_cuda:
            return callback

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with CAPTURE_GATE.released():
                return callback(*args, **kwargs)

        return call

    def drop(self, owner: object) -> None:
        """Let go of what a runtime or a trajectory has, in its destructor."""
        if self.uses_cuda:
            drop_beside_recordings(owner)

    def close(self, free: Callable[[], None]) -> None:
        """Let the running call end, refuse all later ones and free the engine; once.

        Args:
            free: drops the engine's objects.
        """
        if self.is_inherited:
            # Freeing waits for the engine's threads, which do not exist in a fork.
            self.is_open = False
            return
        with self._lock:
            if self.is_open:
                self.is_open = False
                with self.beside_recordings():
                    free()


def guarded(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A method of a runtime or a trajectory, run inside ``self._guard``."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._guard.call():
            return method(self, *args, **kwargs)

    return call


_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


def _let_fork_end() -> None:
    """Keep the destructors of inherited engines from running in a fork.

    They wait for threads that do not exist there, so the fork would not end (onnxruntime 1.32 and
    openvino 2026.4 when a session is freed, onnxruntime also in its exit handler).
    """
    owners = [owner for guard in list(_guards) if guard.is_open and (owner := guard._owner())]
    if not owners:
        return
    for owner in owners:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
    library = ctypes.CDLL(None)
    if hasattr(library, "on_exit"):
        # glibc passes the exit status to the handler, and runs the last one first. Python has
        # flushed its files and run atexit by then.
        library.on_exit(ctypes.cast(library._exit, ctypes.c_void_p), None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_fork_end)
