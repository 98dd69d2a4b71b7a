"""What any program of ours has to say where CUDA refuses, on the stand-in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from tests.helpers.cuda_standin.standin import Run


class Generate(Protocol):
    """Image on provider cuda, as image.png of a folder: arguments, then settings of ``run``."""

    def __call__(self, folder: Path, *arguments: object, **settings: object) -> Run: ...


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


@cache
def num_allocations(generate: Generate, folder: Path) -> int:
    """Allocations on the device in an image that succeeds."""
    done = generate(folder)
    assert (done.code, done.err) == (0, "")
    return sum(event.kind == "allocate" and "Host" not in event.name for event in done.events)
