"""log.jsonl: one JSON object a line, as if a stopped and resumed run had never stopped."""

from __future__ import annotations

import json
from pathlib import Path

from minit2i_deploy.io.files import atomic_write_text


class Log:
    """Appends lines, each with the step it belongs to.

    Args:
        path: the file; lines of an earlier process that belong to later steps than ``step`` are
            dropped, because those steps are made again.
        step: optimizer steps that were made.

    Raises:
        UsageError: the place cannot be written.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        kept = [line + "\n" for line in lines if _belongs(line, step)]
        atomic_write_text(path, "".join(kept))

    def write(self, *, step: int, **figures: float) -> None:
        """Add one line."""
        with open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **figures}) + "\n")


def _belongs(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (KeyError, TypeError, ValueError):
        # The last line of a killed run may be cut.
        return False
