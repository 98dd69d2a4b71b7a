"""The benchmark scripts on engines run at tiny size, and their figures are what they say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.tiny_bundle import tiny_bundle

pytest.importorskip("torch")
pytest.importorskip("optimum.onnxruntime")
pytest.importorskip("openvino")

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.runtimes import open_runtime

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# The official port's module in outline, around our network: names and calls are the port's.
PORT = """
import collections
import dataclasses
import torch
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model.build import network_from_config

parts = ("student", "loop", "image_width")
names = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in parts]
MMJiTConfig = dataclasses.make_dataclass("C", [*names, "txt_hidden_size", "cond_vec_size"])
Keys = collections.namedtuple("Keys", ["missing_keys", "unexpected_keys"])

class Net(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.config = ModelConfig(**{name: getattr(cfg, name) for name in names})

    def load_state_dict(self, tensors, strict):
        arrays = {name: value.numpy() for name, value in tensors.items()}
        self.inner = network_from_config(self.config, arrays)
        return Keys(["t_embedder.mlp.0.weight", "pooled_embedder.weight"], [])

class DiffusionModel(torch.nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.net = Net(cfg)

    def cfg_velocity(self, x, t, text, mask, scale):
        cond, uncond = (self.net.inner(x, text, m) for m in (mask, torch.zeros_like(mask)))
        return (uncond + scale * (cond - uncond) - x) / (1 - t)
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def report_of(module: Any, capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert module.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_peers(
    script: Any,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers" / "mmdit.py").write_text(PORT)
    program = "python -c 'import time; time.sleep(0.02 * {steps})'"
    peers = script("peers")
    monkeypatch.setattr(script("peer_engines"), "_RATE_REPEATS", 1)
    report = report_of(
        peers, capsys, tiny_bundle(), "--official", tmp_path, "--rounds", 2, "--threads", 1,
        "--ours", "onnxruntime fp32", "--ours", "torch fp32", "--sd-cpp", program,
    )  # fmt: skip
    step = {row["label"]: row for row in report["parts"]["step"]}
    assert list(step) == [
        "onnxruntime fp32", "torch fp32", "official fp32", "official bf16", "python",
    ]  # fmt: skip
    for label in ("onnxruntime fp32", "torch fp32", "official fp32"):
        # Measured 6.3e-7.
        assert step[label]["difference"] <= 1e-5
    assert 1e-4 < step["official bf16"]["difference"] < 0.2
    assert step["python"]["difference"] is None
    encoder = {row["label"]: row for row in report["parts"]["encoder"]}
    assert {"optimum", "transformers"} < set(encoder)
    # Measured 2.3e-7; padding changes no real token.
    assert max(row["difference"] for row in encoder.values()) <= 1e-5
    for rows in report["parts"].values():
        assert all(len(row["wall_s"]) == len(row["cpu_s"]) == 2 for row in rows)
        assert rows[0]["times_first"] == 1.0
    assert peers._text(report).count("\n") > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--official", "nowhere"], "no diffusers/mmdit.py"),
        (["--sd-cpp", "sd --steps 4"], "no {steps}"),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_peers_refuses(
    script: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        script("peers").main(["bundle", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_gpu_onnxruntime_on_the_cpu(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = script("gpu_onnxruntime")
    monkeypatch.setattr(gpu, "PROMPT", "a red circle")
    report = report_of(
        gpu, capsys, tiny_bundle(), "--provider", "cpu", "--rounds", 2, "--burst", 3,
        "--pictures", 1, "--steps", 3,
    )  # fmt: skip
    assert set(report["step"]) == {"onnxruntime", "torch"}
    # Measured 5.7e-8 after three steps.
    assert report["step"]["onnxruntime"]["difference_to_torch"] <= 1e-5
    assert report["host"] == {
        "bytes_a_step": gpu.MAX_STEP_BYTES,
        "copies_a_step": 2,
        "bytes_at_the_end": 2 * 3 * 32 * 32 * 4,
    }
    assert "euler-3" in report["pictures"] and len(report["pictures"]) == 2
    assert report["attention"]["flash"] == 0 and report["attention"]["log_lines"] > 10
    assert report["passed"] and "passed" in gpu._text(report)


def test_embedding_times_the_short_prompt_alone(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    embedding = script("embedding")
    report = report_of(embedding, capsys, tiny_bundle(), "--short-only", "--rounds", 1)
    # Measured 0.
    assert report["short_prompt"]["difference"] <= 2e-6
    assert "texts_per_s" not in report and "20 tokens" in embedding._text(report)


def test_embedding_has_the_values_of_other_libraries(
    script: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    embedding = script("embedding")
    report = report_of(
        embedding, capsys, tiny_bundle(), "--texts", 40, "--rounds", 1,
        "--peer", "transformers", "--peer", "optimum", "--peer", "fastembed",
    )  # fmt: skip
    assert list(report["texts_per_s"]) == ["minit2i", "transformers", "optimum", "fastembed"]
    # Measured 2.9e-7.
    assert report["largest_difference"] <= 3e-6
    assert "fastembed" in embedding._text(report)


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, True),
        ({"attention": {"flash": 3, "blocks": 4}}, False),
        ({"attention": {"flash": None, "blocks": 4}}, True),
        ({"attention": {"flash": 0, "blocks": 4}, "precision": "fp32"}, True),
        ({"host": {"bytes_a_step": 33}}, False),
    ],
)
def test_what_the_gpu_script_asserts(script: Any, changes: dict[str, Any], passes: bool) -> None:
    report: dict[str, Any] = {
        "provider": "cuda",
        "precision": "fp16",
        "attention": {"flash": 4, "blocks": 4},
        "host": {"bytes_a_step": 32},
    }
    assert script("gpu_onnxruntime")._passed(report | changes) is passes


def test_attention_of_the_adapter_stands_in_for_no_block(script: Any) -> None:
    """Lines as onnxruntime-gpu 1.31 words them."""
    gpu = script("gpu_onnxruntime")
    config = script("random_release").TINY
    text, joint = config.num_text_tokens, config.num_text_tokens + 64
    line = "[V:onnxruntime] ONNX Attention: using {} (batch=2, q_seq={}, total_seq={}, past=0)"
    lines = [
        *[line.format("Flash Attention", text, text)] * 2,
        line.format("Flash Attention", joint, joint),
        line.format("cuDNN SDPA", 64, joint),
        line.format("Memory Efficient Attention", joint, joint),
    ]
    assert gpu.fused_blocks(lines, config) == 2


def test_generate_memory(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    memory = script("generate_memory")
    report = report_of(
        memory, capsys, tiny_bundle(), "--rows", 1, "--engine", "onnxruntime:lean=true,threads=1"
    )
    (row,) = report["engines"]
    assert row["peak_bytes"] > row["idle_bytes"] > 0
    files = [*tiny_bundle().glob("*/model.onnx*")]
    assert report["weight_bytes"] >= sum(path.stat().st_size for path in files) > 0
    assert memory.engine_options("a:b=1,c=true,d=bf16") == ("a", {"b": 1, "c": True, "d": "bf16"})


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_lean_runtime_frees_its_text_encoder(name: str) -> None:
    bundle = Bundle.open(tiny_bundle())
    ids, mask = np.array([[5, 6, 1]], np.int64), np.ones((1, 3), np.int64)
    size, tokens = bundle.config.image_size, bundle.config.num_text_tokens
    x = np.zeros((1, 3, size, size), np.float32)
    adapted = np.zeros((1, 1, tokens, bundle.config.hidden_size), np.float32)
    for lean, graphs in ((True, {"transformer"}), (False, {"text_encoder", "transformer"})):
        with open_runtime(bundle, name, threads=1, lean=lean) as runtime:
            first = runtime.encode(ids, mask)
            runtime.start(x, adapted)
            loaded = runtime._sessions if name == "onnxruntime" else runtime._graphs
            assert set(loaded) == graphs
            assert np.array_equal(runtime.encode(ids, mask), first)


@pytest.mark.filterwarnings("ignore::minit2i_deploy.errors.PromptTruncatedWarning")
def test_steps_by_processor(
    script: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here = tmp_path / "here.npz"
    module, bundle = script("step_by_processor"), str(tiny_bundle())
    assert module.main([bundle, bundle, "--save", str(here)]) == 0
    assert capsys.readouterr().out == f"{bundle}: inf dB\n" * 2
    outputs = dict(np.load(here))
    # A processor where the second bundle's steps come out half as large: 6.02 dB.
    outputs["1"] = outputs["1"] / 2
    np.savez(here, allow_pickle=False, **outputs)
    assert module.main([bundle, bundle, "--against", str(here)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{bundle}: inf dB, there inf dB; differ by 0.0e+00"
    largest = float(np.abs(outputs["1"]).max())
    assert second == f"{bundle}: inf dB, there 6.0 dB; differ by {largest:.1e}"


def test_block_speed(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("block_speed")
    monkeypatch.setattr(module, "VARIANTS", {"b-16": script("random_release").TINY})
    options = ("--rounds", 2, "--scheme", "int8-cpu", "--scheme", "int4-weights")
    report = report_of(module, capsys, *options, "--include", "*.img_mlp.w2")
    assert list(report["seconds"]) == ["fp32", "int8-cpu", "int4-weights"]
    assert all(len(times) == 2 and min(times) > 0 for times in report["seconds"].values())
    report["seconds"] = {"fp32": [3.0, 1.0], "int8-cpu": [0.5, 2.0]}
    report["wall_seconds"] = {"fp32": [4.0, 2.0], "int8-cpu": [1.0, 1.0]}
    first, second = module.text(report).splitlines()[1:3]
    assert first.split() == ["fp32", "1.000", "s", "1.00", "1.000", "2.000", "s", "1.000"]
    assert second.split() == ["int8-cpu", "0.500", "s", "2.00", "1.083", "1.000", "s", "0.375"]


def test_block_speed_of_openvino(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("block_speed")
    monkeypatch.setattr(module, "VARIANTS", {"b-16": script("random_release").TINY})
    names = ("fp32@openvino-fp32", "int8-openvino@openvino-fp32", "int8-cpu")
    options = ("--against", names[0], "--scheme", names[1], "--scheme", names[2], "--rounds", 1)
    report = report_of(module, capsys, *options, "--threads", 2)
    assert list(report["seconds"]) == list(report["wall_seconds"]) == list(names)


@pytest.mark.parametrize(
    ("option", "label", "line"),
    [
        ("--scheme", "int9", "unknown scheme 'int9'; choose one of int8, "),
        (
            "--against",
            "fp32@torch",
            "unknown engine 'torch'; choose one of onnxruntime, openvino-fp32, openvino-bf16",
        ),
    ],
)
def test_block_speed_names_the_choices(
    script: Any, capsys: pytest.CaptureFixture[str], option: str, label: str, line: str
) -> None:
    with pytest.raises(SystemExit) as end:
        script("block_speed").main([option, label])
    assert end.value.code == 2
    assert f"error: argument {option}: {line}" in capsys.readouterr().err
