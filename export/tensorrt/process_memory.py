"""Peak resident memory of this process, and free memory, on systems with /proc."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
# Value that resets the peak; proc(5).
_RESET_PEAK: Final = "5"


def reset_peak() -> None:
    """Reset the peak; if the system refuses, it remains that of the process."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK, "ascii")


def peak_bytes() -> int | None:
    """The peak, mapped files included, or None on systems without /proc."""
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
