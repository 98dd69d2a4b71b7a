"""The log that the stand-in writes: one line a call, and what a test counts in it."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MARK: Final = "mark"
# cuBLAS's number of the mode that rounds float32 products to TF32.
_TF32_MODE: Final = 3
_FIELD: Final = re.compile(r"^(\w+)=(\S*)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line: its kind, the words after it, and fields such as ``bytes=8``."""

    kind: str
    name: str
    fields: dict[str, str]

    def number(self, field: str) -> int:
        """A field as a number; 0 where the line has no such field."""
        return int(self.fields.get(field, 0))

    @property
    def on_host(self) -> bool:
        """Whether it holds up the host: a wait, or a copy that waits."""
        return self.kind == "wait" or (self.kind == "copy" and self.name == "waiting")


def read_events(log: Path) -> list[Event]:
    """Every line of a log; binutils, where they are installed, write names of kernels in full."""
    text = log.read_text("utf-8")
    if shutil.which("c++filt"):
        command = ["c++filt"]
        text = subprocess.run(
            command, input=text, capture_output=True, text=True, check=True
        ).stdout
    return [_event(line) for line in text.splitlines()]


def _event(line: str) -> Event:
    kind, _, rest = line.partition(" ")
    words = rest.split(" ")
    fields = dict(match.groups() for match in map(_FIELD.match, words) if match)
    name = " ".join(word for word in words if not _FIELD.match(word))
    return Event(kind=kind, name=name, fields=fields)


def sections(events: Sequence[Event]) -> dict[str, list[Event]]:
    """Events after each mark; a mark that comes again continues its section."""
    result: dict[str, list[Event]] = {}
    current = result.setdefault("", [])
    for event in events:
        if event.kind == MARK:
            current = result.setdefault(event.name, [])
        else:
            current.append(event)
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What some calls come to.

    Args:
        kernels: launches of the provider's own kernels, by name without arguments.
        products: products of cuBLAS.
        copies: copies by kind, such as host-to-device.
        fills: fills of device memory.
        waits: times that the host waits for the device.
        replays: launches of complete graphs.
        stale: copies of replays whose host memory had changed or was freed.
        unpinned: copies of a capture that read pageable memory.
        tf32: products in TF32.
        violations: calls that a capture forbids.
    """

    kernels: dict[str, int]
    products: int
    copies: dict[str, int]
    fills: int
    waits: int
    replays: int
    stale: int
    unpinned: int
    tf32: int
    violations: tuple[str, ...]

    @property
    def launches(self) -> int:
        """Kernels and products: what the device starts."""
        return sum(self.kernels.values()) + self.products

    def kernels_with(self, text: str) -> int:
        """Launches of kernels with a text in their names."""
        return sum(count for name, count in self.kernels.items() if text in name)


def count(events: Sequence[Event]) -> Counts:
    """Counts of some events."""
    products = [event for event in events if event.kind == "product"]
    copies = [event for event in events if event.kind == "copy"]
    recorded = [event for event in copies if event.number("captured")]
    return Counts(
        kernels=_tally(_base_name(event.name) for event in events if event.kind == "launch"),
        products=len(products),
        copies=_tally(event.fields["kind"] for event in copies),
        fills=sum(event.kind == "fill" for event in events),
        waits=sum(event.on_host for event in events),
        replays=sum(event.kind == "replay" for event in events),
        stale=sum(event.number("stale") for event in events if event.kind == "replay"),
        unpinned=sum(
            event.fields["kind"] == "host-to-device" and not event.number("pinned")
            for event in recorded
        ),
        tf32=sum(event.number("math") == _TF32_MODE for event in products),
        violations=tuple(event.name for event in events if event.kind == "violation"),
    )


def captures(events: Sequence[Event]) -> list[list[Event]]:
    """The events of each capture, in the order of recording."""
    result: list[list[Event]] = []
    inside = False
    for event in events:
        if event.kind == "capture":
            inside = event.name == "begin"
            if inside:
                result.append([])
        elif inside:
            result[-1].append(event)
    return result


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names))


def _base_name(kernel: str) -> str:
    """``void onnxruntime::cuda::_Cast<float, half>(...)`` as ``_Cast<float, half>``."""
    depth, end = 0, len(kernel)
    for place, letter in enumerate(kernel):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0 and not kernel.startswith("(anonymous", place):
            end = place
            break
    name = kernel[:end].removeprefix("void ")
    head, bracket, arguments = name.partition("<")
    return head.rpartition("::")[2] + bracket + arguments
