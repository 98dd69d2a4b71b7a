"""Ctrl-C waits while somebody else's package is being imported, and is delivered right after.

A KeyboardInterrupt in the middle of a native library's start-up ends the process with an abort or a
traceback of that library's, or is swallowed by it (pybind11 in torch, numpy inside torch). It waits
for the complete package: code of its own that a library calls back while it starts looks the same
from here as an import statement.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Any, Final

_OURS: Final = "minit2i_deploy"
# What a loader is asked to do; a native module starts up in the first, all others in the second.
_LOADING: Final = ("create_module", "exec_module")


@contextlib.contextmanager
def uninterrupted_imports() -> Iterator[None]:
    """Inside the block SIGINT waits for the end of any import of a package that is not ours."""
    finder = _Finder()
    # Before Python's own and after any other: what those refuse or find themselves stays theirs.
    known = PathFinder in sys.meta_path
    sys.meta_path.insert(sys.meta_path.index(PathFinder) if known else len(sys.meta_path), finder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)


class _Finder:
    """Finds what Python's path finder finds, and has it loaded with SIGINT held back."""

    def __init__(self) -> None:
        self._holds = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package = name.partition(".")[0]
        if package == _OURS or package in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            # On the loader itself: others ask it for sources and data and for what it is.
            for work in _LOADING:
                setattr(spec.loader, work, partial(self._load, getattr(spec.loader, work)))
        return spec

    def _load(self, work: Callable[..., Any], *arguments: Any) -> Any:
        if self._holds:
            return work(*arguments)
        with sigint_held() as self._holds:
            try:
                return work(*arguments)
            finally:
                self._holds = False


@contextlib.contextmanager
def sigint_held() -> Iterator[bool]:
    """Hold SIGINT back inside the block; whoever handled it before gets it at the end.

    Yields:
        whether it is held: not in a thread besides the main one, whose signals Python does not
        handle, nor where the process ignores SIGINT or dies of it.
    """
    frames: list[FrameType | None] = []

    def note(number: int, frame: FrameType | None) -> None:
        frames.append(frame)

    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or not _handle_with(note):
        yield False
        return
    try:
        yield True
    finally:
        # A library that brought a handler of its own keeps it.
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)
        if frames:
            before(signal.SIGINT, frames[-1])


def _handle_with(handler: Callable[[int, FrameType | None], None]) -> bool:
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:
        return False
    return True
