"""Processes that run on the stand-in: their environment, their log, their answer."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.helpers.cuda_standin.events import Event, read_events

ROOT: Final = Path(__file__).resolve().parents[3]
BUILD: Final = ROOT / "build" / "cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A process that ended: its exit code, its outputs and its calls to CUDA."""

    code: int
    out: str
    err: str
    events: list[Event]

    @property
    def answer(self) -> Any:
        """The JSON that it printed; an error shows what it printed instead."""
        assert self.code == 0, self.err[-4000:]
        return json.loads(self.out)


@functools.cache
def build() -> Path:
    """Compile the stand-in; the first time in a checkout, get onnxruntime-gpu as well."""
    command = ["sh", str(ROOT / "scripts" / "cuda_standin.sh"), str(BUILD), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return BUILD


def environment(*, cuda: bool = True, cudnn: bool = True, **settings: object) -> dict[str, str]:
    """Variables of a process on the stand-in.

    Args:
        cuda: whether CUDA's own libraries are installed.
        cudnn: whether cuDNN is installed.
        settings: of the stand-in, by their names in ``src/standin.h`` without the prefix.
    """
    folder = build()
    places = {folder / "lib": cuda, folder / "cudnn": cudnn}
    libraries = [place for place, is_there in places.items() if is_there]
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{folder / 'site'}:{ROOT}",
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        **{f"CUDA_STANDIN_{name.upper()}": str(value) for name, value in settings.items()},
    }


def cpp_environment(**settings: Any) -> dict[str, str]:
    """As ``environment``, with the GPU library of ONNX Runtime for the C++ client."""
    values = environment(**settings)
    library = build() / "site" / "onnxruntime" / "capi"
    return {**values, "LD_LIBRARY_PATH": f"{library}:{values['LD_LIBRARY_PATH']}"}


def run(
    *arguments: object,
    program: str | Path = sys.executable,
    variables: Callable[..., dict[str, str]] = environment,
    **settings: object,
) -> Run:
    """Run a program with some arguments on the stand-in; settings as in ``environment``."""
    with tempfile.TemporaryDirectory(prefix="minit2i-cuda-") as folder:
        log = Path(folder) / "log"
        log.touch()
        done = subprocess.run(
            [str(program), *map(str, arguments)],
            capture_output=True,
            text=True,
            errors="replace",
            env=variables(log=log, **settings),
            cwd=folder,
            check=False,
        )
        return Run(code=done.returncode, out=done.stdout, err=done.stderr, events=read_events(log))
