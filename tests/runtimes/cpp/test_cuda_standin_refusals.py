"""What the C++ client says where CUDA refuses, on the stand-in: one line, CUDA's reason in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cpp_client import build
from tests.helpers.cuda_standin.bundles import small_bundle
from tests.helpers.cuda_standin.census import cpp_image_run
from tests.helpers.cuda_standin.refusals import Refusals
from tests.helpers.cuda_standin.standin import Run, cpp_environment, run

pytestmark = pytest.mark.cuda


def generate(folder: Path, *arguments: object, precision: str = "fp16", **settings: Any) -> Run:
    """An image on provider cuda; arguments of the program, then settings of ``run``."""
    bundle = small_bundle("b-16", precision)
    command = [bundle, "red", "--provider", "cuda", "-o", folder / "image.png", *arguments]
    program = build() / "minit2i-generate"
    return run(*command, program=program, variables=cpp_environment, **settings)


REFUSALS = Refusals(program="minit2i-generate", generate=generate)


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
    REFUSALS.check_line(done, *parts)
    assert not (tmp_path / "image.png").exists()


def test_a_gpu_that_does_not_compute_in_bf16(tmp_path: Path) -> None:
    REFUSALS.check_bf16(tmp_path)
    assert generate(tmp_path, precision="bf16", capability=80).code == 0


def test_a_second_gpu_where_there_is_one(tmp_path: Path) -> None:
    REFUSALS.check_second_gpu(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_memory_that_runs_out_before_the_first_step(tmp_path: Path, share: float) -> None:
    """In the text encoder, and in the text adapter."""
    REFUSALS.check_memory(tmp_path, share)


def test_memory_that_runs_out_at_a_row() -> None:
    REFUSALS.check_memory_at_rows(cpp_image_run, small_bundle("b-16", "fp32"))


def test_memory_that_runs_out_while_a_graph_is_recorded(tmp_path: Path) -> None:
    REFUSALS.check_memory_of_graphs(tmp_path)
