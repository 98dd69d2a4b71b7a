"""Greatest resident memory of this process since a moment, where the system tells it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
# What proc(5) says resets the peak.
_RESET_PEAK: Final = "5"


def reset_peak() -> None:
    """Begin anew; where the system refuses, the peak is that of the whole process."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, "ascii")


def peak_bytes() -> int | None:
    """The peak, mapped files among it, or None on systems without /proc."""
    return _field("VmHWM")


def available_bytes() -> int | None:
    """Memory that a new process may take without swapping, or None on systems without /proc."""
    return _field("MemAvailable", Path("/proc/meminfo"))


def _field(name: str, path: Path = _STATUS) -> int | None:
    try:
        for line in path.read_text("ascii").splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    except (OSError, ValueError):
        pass
    return None
