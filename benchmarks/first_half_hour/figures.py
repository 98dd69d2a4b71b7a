"""Figures, written the moment they are there."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MAX_REASON: Final = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What a part is to measure, and where its figures go.

    Args:
        part: its name.
        output: file of JSON lines.
        device: "cuda:0", or "cpu" in a rehearsal.
        bundle: a bundle with weights, or None for parts without one.
        work: folder for what one part leaves to another.
    """

    part: str
    output: Path
    device: str
    bundle: Path | None
    work: Path

    @property
    def on_gpu(self) -> bool:
        """Whether this is no rehearsal."""
        return self.device != "cpu"

    def record(self, name: str, value: object) -> None:
        """Append a figure."""
        append(self.output, {"part": self.part, "figure": name, "value": value})

    def measure(self, name: str, call: Callable[[], Any]) -> Any:
        """Record what a call returns, or why it failed; None where it failed."""
        began = time.perf_counter()
        try:
            value = call()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"[:_MAX_REASON]
            place = traceback.extract_tb(error.__traceback__)[-1]
            self.record(
                name, {"failed": reason, "at": f"{Path(place.filename).name}:{place.lineno}"}
            )
            return None
        timing = {"took_s": round(time.perf_counter() - began, 2)}
        self.record(name, value | timing if isinstance(value, dict) else value)
        return value


def append(path: Path, line: dict[str, object]) -> None:
    """One line, in one write: whatever comes later, it is there."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, "time": round(time.time(), 1)}, default=str) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of such a file; one that was cut off by a crash is left out."""
    lines = []
    for text in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
