"""Graphs in operators of ONNX Runtime's own: the same network, recorded, and refused elsewhere."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.head_padding import HeadPadding
from minit2i_deploy.bundle.manifest import Manifest, add_checksum
from minit2i_deploy.config import ModelConfig, StudentConfig
from minit2i_deploy.errors import BundleError, RuntimeFailure, UsageError
from minit2i_deploy.export import ExportOptions, export_bundle
from minit2i_deploy.export.graphs.head_padding import pad_heads
from minit2i_deploy.export.graphs.modules import (
    AdapterGraph,
    canonical_name,
    step_signature,
    text_adapter_signature,
)
from minit2i_deploy.export.graphs.onnx_export import to_onnx
from minit2i_deploy.export.graphs.onnxruntime_denoiser import FusedDenoiser
from minit2i_deploy.export.graphs.onnxruntime_heads import use_onnxruntime_heads
from minit2i_deploy.export.graphs.weights_file import write_graph
from minit2i_deploy.export.quantize import QuantizeOptions, quantize_bundle
from minit2i_deploy.export.quantize.switch_bundle import add_switch
from minit2i_deploy.export.tensorrt import BuildOptions, build_bundle, plan_bundle
from minit2i_deploy.export.verification.reference import step_inputs
from minit2i_deploy.generate import generate
from minit2i_deploy.model import MMJiT, Step
from minit2i_deploy.model.loop import run_row
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.checkpoint_forms import CONFIG, hub_folder
from tests.helpers.cli_runs import run
from tests.helpers.tiny_bundle import text_folder, tiny_bundle

TABLE = solver_table("euler", steps=3, a_min=0.05)
# L/16's heads.
NARROW = ModelConfig(
    image_size=32, patch_size=8, hidden_size=104, num_heads=2, head_dim=52, depth_double=2,
    txt_input_size=32, prompt_length=12,
)  # fmt: skip
NETWORKS = {
    "heads of 16": (CONFIG, None),
    "heads of 52": (NARROW, None),
    "heads of 52 padded to 56": (NARROW, HeadPadding(head_dim=52, padded=56)),
    "a student": (dataclasses.replace(CONFIG, student=StudentConfig()), None),
}


@functools.cache
def cpu_bundle() -> Path:
    """The golden network for provider cpu alone. Do not write into it."""
    folder = Path(tempfile.mkdtemp(prefix="minit2i-only-for-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    text = text_folder()
    return export_bundle(
        hub_folder(), folder / "bundle", ExportOptions(text_encoder=text, only_for="cpu")
    ).path


def final_state(bundle: Bundle, runtime: str, **options: Any) -> np.ndarray:
    with open_runtime(bundle, runtime, **options) as opened:
        return generate(bundle, opened, "a red circle", seed=3, table=TABLE, guidance=2.5).x


def network(config: ModelConfig) -> MMJiT:
    """With weights of a size at which attention and rotation matter."""
    torch.manual_seed(0)
    net = MMJiT(config).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    return net


def session(module: torch.nn.Module, signature: Any, folder: Path) -> Any:
    write_graph(to_onnx(module.eval(), signature, 23), module, folder, canonical_name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def error(actual: np.ndarray, expected: torch.Tensor) -> float:
    return float(np.linalg.norm(actual - expected.numpy()) / np.linalg.norm(expected.numpy()))


@pytest.mark.parametrize("engine", ["cpu", "cuda"])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_graphs_compute_what_torch_does(tmp_path: Path, name: str, engine: str) -> None:
    """Two images, two branches, texts of two lengths; torch in float64."""
    config, padding = NETWORKS[name]
    net, exact = network(config), network(config).double()
    mask = (np.arange(12) < np.array([[5], [12]])).astype(np.int64)
    inputs = {"context": normal(2, 12, 32), "mask": mask}
    if config.student is not None:
        inputs["conditions"] = normal(2, 4, seed=4)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    expected = AdapterGraph(exact.text_adapter)(**tensors)
    if padding is not None:
        pad_heads(net, padding)
    use_onnxruntime_heads(net)
    # The order of operators for CUDA, in onnxruntime's CPU kernels.
    denoiser = FusedDenoiser(net.denoiser) if engine == "cuda" else net.denoiser
    parts = {
        "a": (AdapterGraph(net.text_adapter), text_adapter_signature(config)),
        "s": (Step(denoiser), step_signature(config)),
    }
    adapter, step = (session(*part, tmp_path / key) for key, part in parts.items())
    tokens = adapter.run(None, inputs)[0]
    # Measured 1.2e-6 at most.
    assert error(tokens, expected) <= 6e-6
    row = Row(
        values=np.array([0.3, 0.9, 0.2, 0.1, 0.4, 0.0], np.float32),
        weights=np.array([2.5, -1.5], np.float32),
    )
    x, h = normal(2, 3, 32, 32, seed=1), normal(2, 3, 32, 32, seed=2)
    branches = np.stack([tokens, tokens[::-1]])
    state = step_inputs(x, h, branches, row)
    doubles = [
        torch.from_numpy(value).double() for value in (x, h, branches, row.weights, row.values)
    ]
    oracles = run_row(Step(exact.denoiser), *doubles)
    for actual, oracle in zip(step.run(None, state), oracles, strict=True):
        # Measured 2.8e-6 at most.
        assert error(actual, oracle) <= 1e-5


def test_one_node_each_and_no_transposes() -> None:
    graph = onnx.load(cpu_bundle() / "transformer" / "model.onnx", load_external_data=False).graph
    kinds = Counter((node.domain, node.op_type) for node in graph.node)
    blocks = CONFIG.depth_double
    assert kinds["com.microsoft", "MultiHeadAttention"] == blocks
    # Queries and keys of both streams; the last block has no text queries.
    assert kinds["com.microsoft", "RotaryEmbedding"] == 4 * blocks - 1
    assert {"Attention", "Softmax"}.isdisjoint(kind for _, kind in kinds)
    # Of patches alone: the image is split and joined.
    assert kinds["", "Transpose"] == 2


def test_for_cuda_a_block_has_few_nodes_and_no_unequal_split(tmp_path: Path) -> None:
    net = network(CONFIG)
    use_onnxruntime_heads(net)
    module = Step(FusedDenoiser(net.denoiser)).eval()
    graph = to_onnx(module, step_signature(CONFIG), 23).graph
    kinds = Counter((node.domain, node.op_type) for node in graph)
    blocks = CONFIG.depth_double
    assert kinds["com.microsoft", "MultiHeadAttention"] == blocks
    # Both streams at once; a sum before each norm but the text's first.
    assert kinds["com.microsoft", "RotaryEmbedding"] == 2 * blocks
    assert kinds["com.microsoft", "SkipSimplifiedLayerNormalization"] == 4 * blocks - 1
    # An unequal one copies its sizes from the host; q, k and v are equal parts.
    assert kinds["", "Split"] == blocks
    assert all(len({str(o.shape) for o in n.outputs}) == 1 for n in graph if n.op_type == "Split")


def test_a_bundle_for_cuda_runs_on_that_provider_and_in_torch(tmp_path: Path) -> None:
    choice = ExportOptions(
        text_encoder=text_folder(), only_for="cuda", precision="fp16", head_multiple=8
    )
    bundle = export_bundle(hub_folder(), tmp_path / "b", choice)
    assert bundle.manifest.only_for == "cuda"
    with pytest.raises(RuntimeFailure, match=r"for provider cuda of onnxruntime alone .* so cpu"):
        open_runtime(bundle, "onnxruntime")
    expected = final_state(Bundle.open(tiny_bundle()), "onnxruntime")
    actual = final_state(bundle, "torch", precision="fp32")
    # Measured 3.0e-4: weights in fp16.
    assert np.abs(actual - expected).max() <= 2e-3 * np.abs(expected).max()


def test_it_is_recorded_and_verified() -> None:
    bundle = Bundle.open(cpu_bundle())
    bundle.verify()
    assert bundle.manifest.only_for == "cpu"
    assert json.loads((bundle.path / "manifest.json").read_text())["only_for"] == "cpu"
    plain = Bundle.open(tiny_bundle()).manifest
    assert plain.only_for is None and b"only_for" not in plain.to_bytes()
    actual = {check.name: check.measured for check in bundle.manifest.checks}
    assert actual.keys() == {check.name for check in plain.checks}
    # Measured 2.0e-6; export's bound is 1e-5.
    assert 0 < actual["transformer"] <= 5e-6


@pytest.mark.parametrize(
    ("runtime", "options"),
    [("onnxruntime", {}), ("onnxruntime", {"provider": "auto"}), ("torch", {})],
    ids=["cpu", "auto", "torch"],
)
def test_pictures_are_those_of_standard_operators(runtime: str, options: dict[str, str]) -> None:
    expected = final_state(Bundle.open(tiny_bundle()), "onnxruntime")
    actual = final_state(Bundle.open(cpu_bundle()), runtime, **options)
    # Measured 1.3e-6.
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_other_engines_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(cpu_bundle())
    message = r"is for provider cpu of onnxruntime alone \(export --for cpu\), so {} cannot run it"
    for runtime in ("openvino", "tensorrt", "tensorrt-rtx"):
        with pytest.raises(RuntimeFailure, match=message.format(f"runtime {runtime}")):
            open_runtime(bundle, runtime)
    for use in (plan_bundle, build_bundle):
        with pytest.raises(RuntimeFailure, match=message.format("tensorrt-rtx")):
            use(bundle, BuildOptions(library="tensorrt_rtx", targets=("sm89",)))
    # As if the provider were there.
    for module in ("session", "runtime"):
        name = f"minit2i_deploy.runtimes.onnxruntime.{module}.check_present"
        monkeypatch.setattr(name, lambda *arguments: None)
    for provider in ("cuda", "openvino", "tensorrt"):
        with pytest.raises(RuntimeFailure, match=message.format(provider)):
            open_runtime(bundle, "onnxruntime", provider=provider)


@pytest.mark.parametrize("value", ["openvino", "", "CPU", None, 1])
def test_an_unknown_engine_is_refused(value: object) -> None:
    fields = json.loads((cpu_bundle() / "manifest.json").read_text())
    del fields["manifest_sha256"]
    with pytest.raises(BundleError, match="only_for"):
        Manifest.from_bytes(add_checksum(fields | {"only_for": value}), "manifest.json")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only_for": "rocm"}, "only_for must be one of cpu, cuda, got 'rocm'"),
        ({"only_for": "cuda"}, "requires fp16 at opset 23, got fp32 at opset 23"),
        (
            {"only_for": "cpu", "precision": "bf16"},
            "requires fp32 at opset 23, got bf16 at opset 23",
        ),
        (
            {"only_for": "cpu", "opset": 18},
            "requires fp32 at opset 23, got fp32 at opset 18; drop only_for",
        ),
    ],
)
def test_what_has_no_such_operators_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_bundle(
            hub_folder(), tmp_path / "b", ExportOptions(text_encoder=text_folder(), **settings)
        )
    assert not (tmp_path / "b").exists()


def prompts(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("a red circle\na star\nblue\nred\n", encoding="utf-8")
    return path


def test_quantized_it_is_still_for_that_engine_only(tmp_path: Path) -> None:
    source = Bundle.open(cpu_bundle())
    bundle = quantize_bundle(
        source.path, tmp_path / "q", QuantizeOptions(scheme="int8-cpu", prompts=prompts(tmp_path))
    )
    assert bundle.manifest.only_for == "cpu"
    expected = final_state(source, "onnxruntime")
    rms = np.linalg.norm(final_state(bundle, "onnxruntime") - expected) / np.linalg.norm(expected)
    # Measured 0.031.
    assert 0 < rms < 0.1


def test_attention_in_private_operators_is_not_quantized(tmp_path: Path) -> None:
    """In silence it would be left as it is."""
    with pytest.raises(
        UsageError, match=r"no Attention node, like one that was exported --for cpu"
    ):
        quantize_bundle(
            cpu_bundle(),
            tmp_path / "q",
            QuantizeOptions(scheme="fp8-attention", prompts=prompts(tmp_path)),
        )
    assert not (tmp_path / "q").exists() and not list(tmp_path.glob("*.calibration*"))


def test_its_late_graph_makes_a_bundle_one_for_that_engine(tmp_path: Path) -> None:
    copy = tmp_path / "b"
    shutil.copytree(tiny_bundle(), copy)
    bundle = add_switch(Bundle.open(copy), Bundle.open(cpu_bundle()), 0.5)
    assert bundle.manifest.switch is not None and bundle.manifest.only_for == "cpu"
    with pytest.raises(RuntimeFailure, match="runtime openvino cannot run it"):
        open_runtime(bundle, "openvino")


def test_inspect_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "inspect", cpu_bundle())
    (line,) = (line for line in printed.out.splitlines() if line.startswith("runs on"))
    assert line.split(None, 2)[2] == "provider cpu of onnxruntime only"
