"""What minit2i says where CUDA refuses, on the stand-in: one line, with CUDA's own reason."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cuda_standin.bundles import small_bundle
from tests.helpers.cuda_standin.standin import Run, run

pytestmark = pytest.mark.cuda


def generate(folder: Path, *arguments: object, precision: str = "fp16", **settings: Any) -> Run:
    """Four rows of an image on provider cuda; arguments of the command line, then of ``run``."""
    bundle = small_bundle("b-16", precision)
    command = ["generate", bundle, "red", "--runtime", "onnxruntime", "--provider", "cuda"]
    command += ["--steps", "4", "-o", folder / "image.png", *arguments]
    return run("-m", "minit2i_deploy", *command, **settings)


@functools.cache
def num_allocations(folder: Path) -> int:
    """Allocations on the device in an image that succeeds."""
    done = generate(folder)
    assert (done.code, done.err) == (0, "")
    return sum(event.kind == "allocate" and "Host" not in event.name for event in done.events)


@pytest.mark.parametrize(
    ("settings", "code", "parts"),
    [
        ({"driver": 0}, 1, ("no NVIDIA driver", "driver version is insufficient", "install it")),
        ({"driver": 12080}, 1, ("runs CUDA 12.8", "need 13.0", "newer driver")),
        ({"devices": 0}, 1, ("no NVIDIA GPU", "no CUDA-capable device is detected")),
        (
            {"cuda": False},
            1,
            ("provider cuda lacks lib", "cannot open shared", "constraints.txt '.[cuda]'"),
        ),
        ({"cudnn": False}, 1, ("libcudnn.so.9", "constraints.txt '.[cuda]'")),
        ({"memory_mb": 40}, 1, ("out of memory", "MB more were needed", "smaller batch")),
    ],
)
def test_what_the_machine_lacks(
    tmp_path: Path, settings: dict[str, Any], code: int, parts: tuple[str, ...]
) -> None:
    done = generate(tmp_path, **settings)
    assert done.code == code
    assert_one_line(done, *parts)
    assert not (tmp_path / "image.png").exists()


def test_a_gpu_that_does_not_compute_in_bf16(tmp_path: Path) -> None:
    done = generate(tmp_path, precision="bf16", capability=75)
    assert done.code == 1
    assert_one_line(done, "is bf16", "compute capability 7.5", "takes 8.0", "--precision fp16")


def test_doctor_names_the_gpu_and_its_compute_capability() -> None:
    code = "import json\nfrom minit2i_deploy.cli.doctor import _gpus\nprint(json.dumps(_gpus()))\n"
    done = run("-c", code, capability=89, memory_mb=8000)
    gpu = {"name": "stand-in of an NVIDIA GPU", "compute_capability": "8.9", "bytes": 8000 << 20}
    assert done.answer == {"gpus": [gpu], "gpu_error": None}
    assert run("-c", code, devices=0).answer == {"gpus": [], "gpu_error": None}


def test_a_second_gpu_where_there_is_one(tmp_path: Path) -> None:
    done = generate(tmp_path, "--device", "1")
    assert done.code == 2
    assert_one_line(done, "device is 1", "1 NVIDIA GPU", "count from 0")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_memory_that_runs_out_before_the_first_step(tmp_path: Path, share: float) -> None:
    """At the first allocation, in the text encoder, and in the text adapter."""
    which = 1 + int(share * (num_allocations(tmp_path) - 1))
    done = generate(tmp_path, fail_malloc=which)
    assert done.code == 1
    assert_one_line(done, "out of memory")


def test_memory_that_runs_out_while_a_graph_is_recorded(tmp_path: Path) -> None:
    """Steps then run without graphs, and a warning says why."""
    done = generate(tmp_path, fail_malloc=num_allocations(tmp_path) - 1)
    assert done.code == 0
    assert (tmp_path / "image.png").exists()
    (line,) = done.err.strip().splitlines()
    assert line.startswith("minit2i: warning: ")
    assert line.endswith("running without CUDA graphs")


def assert_one_line(done: Run, *parts: str) -> None:
    (line,) = done.err.strip().splitlines()
    assert line.startswith("minit2i: error: ")
    assert [part for part in parts if part not in line] == [], line
