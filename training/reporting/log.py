"""log.jsonl: one JSON object a line, the same for a resumed run as for an uninterrupted one."""

from __future__ import annotations

import json
from pathlib import Path

from minit2i_deploy.io.files import atomic_write_text


class Log:
    """Appends lines, each with the step it belongs to.

    Args:
        path: the file; lines of an earlier process for steps after ``step`` are deleted, because
            those steps are made again.
        step: optimizer steps made so far.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        valid = [line + "\n" for line in lines if _is_until(line, step)]
        atomic_write_text(path, "".join(valid))

    def write(self, *, step: int, **figures: float) -> None:
        """Add one line."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **figures}) + "\n")


def _is_until(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (KeyError, TypeError, ValueError):
        # The last line of a killed run may be incomplete.
        return False
