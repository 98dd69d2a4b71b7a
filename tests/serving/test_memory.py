"""Freed memory goes back to the system."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minit2i_deploy.serving.engine.memory import EVERY_S, MemoryTrimmer
from tests.helpers.serving_runs import Clock


def resident_mib() -> float:
    """Memory of this process that is in RAM."""
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def test_freed_memory_goes_back_now_and_then() -> None:
    clock = Clock()
    trimmer = MemoryTrimmer(clock)
    # Small enough that glibc does not map each of its own; the last one holds the heap's end.
    arrays = [np.ones(64 * 1024 // 8) for _ in range(1024)]
    held = arrays.pop()
    before = resident_mib()
    arrays.clear()
    clock.now = EVERY_S - 0.1
    assert not trimmer.trim()
    clock.now = EVERY_S
    assert trimmer.trim() and not trimmer.trim()
    assert before - resident_mib() > 40
    assert held.all()
