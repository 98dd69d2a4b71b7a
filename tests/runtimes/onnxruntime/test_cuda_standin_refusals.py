"""What minit2i says where CUDA refuses, on the stand-in: one line, with CUDA's own reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cuda_standin.bundles import small_bundle
from tests.helpers.cuda_standin.census import image_run
from tests.helpers.cuda_standin.refusals import Refusals
from tests.helpers.cuda_standin.standin import Run, run

pytestmark = pytest.mark.cuda


def generate(folder: Path, *arguments: object, precision: str = "fp16", **settings: Any) -> Run:
    """Four rows of an image on provider cuda; arguments of the command line, then of ``run``."""
    bundle = small_bundle("b-16", precision)
    command = ["generate", bundle, "red", "--runtime", "onnxruntime", "--provider", "cuda"]
    command += ["--steps", "4", "-o", folder / "image.png", *arguments]
    return run("-m", "minit2i_deploy", *command, **settings)


REFUSALS = Refusals(program="minit2i", generate=generate)


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
    REFUSALS.check_line(done, *parts)
    assert not (tmp_path / "image.png").exists()
    if "memory_mb" not in settings:
        assert doctors_reason(**settings) in done.err


def doctors_reason(**settings: Any) -> str:
    """Why provider cuda does not work, as ``minit2i doctor`` says before anyone asks."""
    engines = run("-m", "minit2i_deploy", "doctor", "--json", **settings).answer["engines"]
    (engine,) = (engine for engine in engines if engine["engine"] == "onnxruntime:cuda")
    assert engine["state"] == "does not work"
    return str(engine["why"])


def test_a_gpu_that_does_not_compute_in_bf16(tmp_path: Path) -> None:
    REFUSALS.check_bf16(tmp_path)


def test_doctor_names_the_gpu_and_its_compute_capability() -> None:
    code = "import json\nfrom minit2i_deploy.cli.doctor import _gpus\nprint(json.dumps(_gpus()))\n"
    done = run("-c", code, capability=89, memory_mb=8000)
    gpu = {"name": "stand-in of an NVIDIA GPU", "compute_capability": "8.9", "bytes": 8000 << 20}
    assert done.answer == {"gpus": [gpu], "gpu_error": None}
    assert run("-c", code, devices=0).answer == {"gpus": [], "gpu_error": None}


def test_a_second_gpu_where_there_is_one(tmp_path: Path) -> None:
    REFUSALS.check_second_gpu(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_memory_that_runs_out_before_the_first_step(tmp_path: Path, share: float) -> None:
    """At the first allocation, in the text encoder, and in the text adapter."""
    REFUSALS.check_memory(tmp_path, share)


def test_memory_that_runs_out_at_a_row() -> None:
    REFUSALS.check_memory_at_rows(image_run, small_bundle("b-16", "fp32"))


def test_memory_that_runs_out_while_a_graph_is_recorded(tmp_path: Path) -> None:
    REFUSALS.check_memory_of_graphs(tmp_path)
