"""What the C++ client says where CUDA refuses, on the stand-in: one line, CUDA's reason in it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cpp_client import build
from tests.helpers.cuda_standin.bundles import small_bundle
from tests.helpers.cuda_standin.standin import Run, cpp_environment, run

pytestmark = pytest.mark.cuda


def generate(folder: Path, *arguments: object, precision: str = "fp16", **settings: Any) -> Run:
    """An image on provider cuda; arguments of the program, then settings of ``run``."""
    bundle = small_bundle("b-16", precision)
    command = [bundle, "red", "--provider", "cuda", "-o", folder / "image.png", *arguments]
    program = build() / "minit2i-generate"
    return run(*command, program=program, variables=cpp_environment, **settings)


@functools.cache
def num_allocations(folder: Path) -> int:
    """Allocations on the device in an image that succeeds."""
    done = generate(folder)
    assert (done.code, done.err) == (0, "")
    return sum(event.kind == "allocate" and "Host" not in event.name for event in done.events)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"driver": 0}, ("driver version is insufficient", "install NVIDIA's driver")),
        ({"driver": 12080}, ("driver version is insufficient", "or a newer one")),
        ({"devices": 0}, ("no CUDA-capable device is detected", "choose provider cpu")),
        ({"cuda": False}, ("libcublasLt.so.13: cannot open shared", "LD_LIBRARY_PATH")),
        ({"cudnn": False}, ("libcudnn.so: cannot open shared", "install cuDNN 9")),
        ({"memory_mb": 40}, ("out of memory", "smaller batch")),
    ],
)
def test_what_the_machine_lacks(
    tmp_path: Path, settings: dict[str, Any], parts: tuple[str, ...]
) -> None:
    done = generate(tmp_path, "--cuda-graph", "off", **settings)
    assert done.code == 1
    assert_one_line(done, *parts)
    assert not (tmp_path / "image.png").exists()


def test_a_gpu_that_does_not_compute_in_bf16(tmp_path: Path) -> None:
    done = generate(tmp_path, precision="bf16", capability=75)
    assert done.code == 1
    assert_one_line(done, "is bf16", "compute capability 7.5", "takes 8.0", "--precision fp16")
    assert generate(tmp_path, precision="bf16", capability=80).code == 0


def test_a_second_gpu_where_there_is_one(tmp_path: Path) -> None:
    done = generate(tmp_path, "--device", "1")
    assert done.code == 2
    assert_one_line(done, "device is 1", "1 NVIDIA GPU;", "count from 0")


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_memory_that_runs_out_before_the_first_step(tmp_path: Path, share: float) -> None:
    """In the text encoder, and in the text adapter."""
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
    assert line.startswith("minit2i-generate: warning: ")
    assert line.endswith("running without CUDA graphs")


def assert_one_line(done: Run, *parts: str) -> None:
    (line,) = done.err.strip().splitlines()
    assert line.startswith("minit2i-generate: error: ")
    assert "/onnxruntime_src/" not in line
    assert [part for part in parts if part not in line] == [], line
