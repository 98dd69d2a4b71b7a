"""Messages of an engine library during a build: errors, warnings, layers, scratch memory."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

_ERRORS: Final = ("INTERNAL_ERROR", "ERROR")
_LAYERS: Final = re.compile(r"(Engine Layer Information|Layers):\s")
_SCRATCH: Final = re.compile(r"Total (?:Activation|Device Persistent) Memory: ([0-9]+)")
_MAX_LINES: Final = 50
# Places in the library's sources, of use to its authors only.
_NOISE: Final = re.compile(
    r"^.*?Error Code [0-9]+: |^\[[^\]]*\]\s*|^Myelin \(|MyelinCheckException: "
    r"|\[[\w.]+:[0-9]+: \w+\] |\w+\.(?:cpp|h):[0-9]+: "
    r"| In \w+ at \S+\)+$"
)


@dataclass(kw_only=True, slots=True)
class LibraryLog:
    """The messages of one build.

    Args:
        errors: in the order they came.
        warnings: as errors.
        layers: the engine's layers as the library lists them at the end of a build.
        scratch_bytes: device memory besides the weights, or None if it is not logged.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layers: str = ""
    scratch_bytes: int | None = None

    def add(self, severity: str, text: str) -> None:
        """File one message by the name of its severity."""
        if severity in _ERRORS:
            self._append(self.errors, text)
        elif severity == "WARNING":
            self._append(self.warnings, text)
        elif _LAYERS.match(text):
            self.layers += text
        elif match := _SCRATCH.search(text):
            self.scratch_bytes = (self.scratch_bytes or 0) + int(match.group(1))

    def reason(self) -> str:
        """The first error as part of one line; later ones are mostly its consequences."""
        text = " ".join(self.errors[0].split()) if self.errors else "it gave no reason"
        for _ in range(3):
            text = _NOISE.sub("", text)
        return text if len(text) <= 300 else f"{text[:297]}..."

    @staticmethod
    def _append(lines: list[str], text: str) -> None:
        if len(lines) < _MAX_LINES:
            lines.append(text)


def make_logger(module: Any, library_log: LibraryLog) -> Any:
    """An ILogger that fills ``library_log``; it must live as long as the builder."""

    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            library_log.add(severity.name, message)

    return Logger()
