"""minit2i build with TensorRT-RTX: plans, engines, and errors of one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from minit2i_deploy.bundle.bundle import write_manifest
from minit2i_deploy.engines.cache import cached_engines
from minit2i_deploy.engines.sidecar import PLAN_FILE
from tests.helpers.cli_runs import run
from tests.helpers.engine_bundles import FORMS, demo_bundle
from tests.helpers.tensorrt_builds import HALF, attention_graph, copy_of


def test_the_command_builds_plans_and_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = copy_of(HALF, tmp_path / "bundle")
    arguments = ["build", bundle.path, "--engine", "tensorrt-rtx", "--target", "sm86", "sm89"]
    arguments += ["--graph", "text_adapter"]
    plan = run(capsys, *arguments, "--plan")
    assert plan.code == 0 and "none was built" in plan.out and "text_adapter" in plan.out
    built = run(capsys, *arguments, "--json")
    assert (built.code, built.err) == (0, "")
    (record,) = json.loads(built.out)
    assert record["built"] and record["key"]["targets"] == ["sm86", "sm89"]
    again = run(capsys, *arguments)
    assert "current" in again.out and "attention fused 2/2" in again.out
    (planned,) = json.loads(run(capsys, *arguments, "--plan", "--json").out)["engines"]
    assert planned["build"] is False
    printed = run(capsys, "inspect", bundle.path)
    (line,) = (line for line in printed.out.splitlines() if "sm86 sm89" in line)
    assert line.endswith("current")
    plan_file = next(cached_engines(bundle)).folder / PLAN_FILE
    plan_file.write_bytes(plan_file.read_bytes()[:-1])
    (engine,) = json.loads(run(capsys, "inspect", bundle.path, "--json").out)["engines"]
    assert "bytes, expected" in engine["state"]


@pytest.mark.parametrize(
    "arguments, code, text",
    [
        (["--engine", "tensorrt-rtx", "--target", "sm90"], 2, "no target sm90"),
        (["--engine", "tensorrt-rtx", "--batch", "3", "--max-batch", "2"], 2, "got 3 and 2"),
        (
            ["--engine", "tensorrt-rtx", "--require-fused", "1"],
            2,
            "or an integer of at least 2, got '1'",
        ),
        (
            ["--engine", "tensorrt-rtx", "--require-fused", "most"],
            2,
            "expected all, a share such as 90%",
        ),
        (
            ["--engine", "tensorrt-rtx", "--branches", "two"],
            2,
            "expected LEAST,MOST such as 1,2, got 'two'",
        ),
        (["--engine", "tensorrt-rtx", "--optimization-level", "9"], 2, "0 to 5"),
        (["--engine", "tensorrt-rtx", "--wait", "-1"], 2, "--wait: expected at least 0, got -1"),
        (["--engine", "tensorrt-rtx", "--wait", "nan"], 2, "--wait: expected at least 0, got nan"),
        (
            ["--engine", "tensorrt-rtx", "--timing-cache", "c"],
            2,
            "--timing-cache requires --engine",
        ),
        (["--engine", "onnxruntime"], 2, "invalid choice"),
        (["--engine", "tensorrt"], 1, "pip install -c constraints.txt '.[tensorrt]'"),
    ],
)
def test_wrong_use_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, text: str
) -> None:
    done = run(capsys, "build", demo_bundle(*HALF).path, *arguments)
    assert done.code == code
    assert text in done.error


def test_a_failed_build_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The library writes to the file descriptor itself."""
    bundle = copy_of(FORMS[2], tmp_path / "bundle")
    attention_graph(bundle.graph_path("text_adapter"), TensorProto.FLOAT)
    value = onnx.load(bundle.graph_path("text_adapter")).graph.input[0]
    shape = ("n", *(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:]))
    info = bundle.manifest.graphs["text_adapter"]
    tensor = dataclasses.replace(next(iter(info.outputs.values())), shape=shape)
    # Said to be fp16, so that nothing allows its attention to be taken apart.
    info = dataclasses.replace(
        info, precision="fp16", inputs=dict.fromkeys("qkv", tensor), outputs={"y": tensor}
    )
    graphs = {**bundle.manifest.graphs, "text_adapter": info}
    write_manifest(bundle.path, dataclasses.replace(bundle.manifest, graphs=graphs))
    done = run(
        capfd, "build", bundle.path, "--engine", "tensorrt-rtx", "--target", "sm89",
        "--graph", "text_adapter",
    )  # fmt: skip
    assert done.code == 1
    assert "--allow-unfused" in done.error
