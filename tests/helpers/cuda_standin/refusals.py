"""What any program of ours has to say where CUDA refuses, on the stand-in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from tests.helpers.cuda_standin.events import MARK, Event
from tests.helpers.cuda_standin.image_run import LATE
from tests.helpers.cuda_standin.standin import Run


class Generate(Protocol):
    """Image on provider cuda, as image.png of a folder: arguments, then settings of ``run``."""

    def __call__(self, folder: Path, *arguments: object, **settings: object) -> Run: ...


class ImageRun(Protocol):
    """``census.image_run`` or ``census.cpp_image_run``."""

    def __call__(self, bundle: Path, **plan: Any) -> Run: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusals:
    """The cases that programs share.

    Args:
        program: as its lines begin.
        generate: runs it.
    """

    program: str
    generate: Generate

    def check_second_gpu(self, folder: Path) -> None:
        """Where there is one."""
        done = self.generate(folder, "--device", "1")
        assert done.code == 2
        self.check_line(done, "device is 1", "1 NVIDIA GPU;", "count from 0")

    def check_bf16(self, folder: Path) -> None:
        """On a GPU that does not compute in it."""
        done = self.generate(folder, precision="bf16", capability=75)
        assert done.code == 1
        self.check_line(done, "is bf16", "compute capability 7.5", "takes 8.0", "--precision fp16")

    def check_memory(self, folder: Path, share: float) -> None:
        """Which runs out at a share of an image's allocations."""
        which = 1 + int(share * (num_allocations(self.generate, folder) - 1))
        done = self.generate(folder, fail_malloc=which)
        assert done.code == 1
        self.check_line(done, "out of memory")

    def check_memory_at_rows(self, image_run: ImageRun, bundle: Path) -> None:
        """Which runs out at a later row, where guidance begins and needs more."""
        plan = {"rows": 4, "turns": LATE, "images": 1, "cuda_graph": "off"}
        whole = image_run(bundle, **plan)
        assert whole.code == 0, whole.err[-2000:]
        # The first one is for all values of the graph in one piece, which the library does without.
        number = allocations_after_first_row(whole.events)[-1]
        line = image_run(bundle, fail_malloc=number, **plan).answer["error"]
        assert line.startswith("onnxruntime failed in transformer: ") and "\n" not in line
        assert "out of memory" in line and "smaller batch" in line, line
        assert "/onnxruntime_src/" not in line

    def check_memory_of_graphs(self, folder: Path) -> None:
        """Which runs out while one is recorded: steps run without, and a warning says why."""
        which = num_allocations(self.generate, folder) - 1
        done = self.generate(folder, fail_malloc=which)
        assert done.code == 0
        assert (folder / "image.png").exists()
        (line,) = done.err.strip().splitlines()
        assert line.startswith(f"{self.program}: warning: ")
        assert line.endswith("running without CUDA graphs")

    def check_line(self, done: Run, *parts: str) -> None:
        """One line of error with all of these parts, and no path of the library's source."""
        (line,) = done.err.strip().splitlines()
        assert line.startswith(f"{self.program}: error: ")
        assert "/onnxruntime_src/" not in line
        assert [part for part in parts if part not in line] == [], line


def allocations_after_first_row(events: Sequence[Event]) -> list[int]:
    """Numbers of the allocations on the device in later rows of the first image."""
    result: list[int] = []
    number, is_later = 0, False
    for event in events:
        if event.kind == MARK:
            row = re.match(r"image 0 row (\d+)", event.name)
            is_later = row is not None and int(row[1]) > 0
        elif event.kind == "allocate" and "Host" not in event.name:
            number += 1
            if is_later:
                result.append(number)
    return result


@cache
def num_allocations(generate: Generate, folder: Path) -> int:
    """Allocations on the device in an image that succeeds."""
    done = generate(folder)
    assert (done.code, done.err) == (0, "")
    return sum(event.kind == "allocate" and "Host" not in event.name for event in done.events)
