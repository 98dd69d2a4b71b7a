"""Providers: found, refused and tested; the state stays on the device. No GPU is needed."""

from __future__ import annotations

import json
import sys
import tomllib
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure, UsageError
from minit2i_deploy.runtimes import openvino
from minit2i_deploy.runtimes.fake import FakeTrajectory
from minit2i_deploy.runtimes.onnxruntime import providers
from minit2i_deploy.runtimes.onnxruntime.providers import MIN_VERSION, PROVIDERS, lacks_kernels
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.runtimes.onnxruntime.session import find_provider, open_session, run_toy
from minit2i_deploy.runtimes.toy_graph import matmul_model
from minit2i_deploy.solvers.row import Row
from tests.helpers.bundles import CONFIG, write_bundle
from tests.helpers.cli_runs import run
from tests.helpers.fakes.fake_onnxruntime import FakeOrt

CUDA, OPENVINO = "CUDAExecutionProvider", "OpenVINOExecutionProvider"
CPU_ONLY = ("CPUExecutionProvider",)
WITH_CUDA = (CUDA, *CPU_ONLY)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenVINO plugin that is installed and not yet registered."""
    module = types.ModuleType("onnxruntime_ep_openvino")
    module.get_library_path = lambda: "plugin.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", module)
    monkeypatch.setattr(providers, "_registered", set())


@pytest.fixture
def no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("providers") / "bundle"))


def test_the_toy_is_a_valid_model() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(matmul_model(300, 20, 3))
    onnx.checker.check_model(model, full_check=True)
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    assert shapes == [[300, 20], [20, 3]]


def test_the_real_cpu_provider_proves_itself() -> None:
    ort = pytest.importorskip("onnxruntime")
    # Measured 2.1e-7.
    assert run_toy(ort, PROVIDERS["cpu"], threads=1) <= 2e-6
    assert find_provider(ort, "cpu", ["fp32"]).name == "cpu"


@pytest.mark.parametrize(
    ("ort", "name", "line"),
    [
        (FakeOrt(), "cuda", r"this onnxruntime has no CUDAExec.*'.\[cuda\]'"),
        (FakeOrt(), "tensorrt", r"has no TensorrtExec.*'.\[cuda\]'"),
        (FakeOrt(), "openvino", r"not installed; run .*'.\[openvino\]'"),
        (FakeOrt(), "tensorrt-rtx", r"'.\[ort-rtx\]'"),
    ],
)
def test_a_provider_that_is_not_installed_names_its_pip_line(
    ort: FakeOrt, name: str, line: str, no_plugin: None
) -> None:
    with pytest.raises(MissingDependencyError, match=line):
        find_provider(ort, name, ["fp32"])


def test_a_plugin_without_a_device_says_so(plugin: None) -> None:
    ort = FakeOrt()
    for _ in range(2):
        with pytest.raises(RuntimeFailure, match="takes those of Intel only; runtime"):
            find_provider(ort, "openvino", ["fp32"])
    assert ort.registered == [OPENVINO]


def test_a_plugin_that_does_not_load_is_one_line(
    plugin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = FakeOrt()

    def broken(name: str, path: str) -> None:
        raise RuntimeError("undefined symbol\nmore")

    monkeypatch.setattr(ort, "register_execution_provider_library", broken)
    with pytest.raises(
        RuntimeFailure, match=r"cannot be loaded: undefined symbol; if a .*\[openvino\]"
    ):
        find_provider(ort, "openvino", ["fp32"])


def test_openvino_is_told_the_precision(plugin: None) -> None:
    for precision, hint in ((None, "f32"), ("fp32", "f32"), ("bf16", "bf16")):
        ort = FakeOrt(devices=[OPENVINO, f"{OPENVINO}.AUTO"])
        providers._registered.clear()
        open_session(ort, b"", PROVIDERS["openvino"], precision=precision, threads=3)
        ((devices, options),) = ort.sessions[0].options.added
        assert [device.ep_name for device in devices] == [OPENVINO]
        expected = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": "3"}
        assert json.loads(options["load_config"]) == {"CPU": expected}


def test_compiled_models_are_kept_where_asked(plugin: None, tmp_path: Path) -> None:
    ort = FakeOrt(["TensorrtExecutionProvider"], devices=[OPENVINO])
    for name in ("openvino", "tensorrt"):
        open_session(ort, b"", PROVIDERS[name], cache=tmp_path)
    first, second = ort.sessions
    config = json.loads(first.options.added[0][1]["load_config"])
    assert config["CPU"]["CACHE_DIR"] == str(tmp_path)
    assert second.provider_options["TensorrtExecutionProvider"] == {
        "device_id": "0", "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(tmp_path),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_a_precision_that_is_not_offered_is_refused(
    bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOrt(WITH_CUDA))
    with pytest.raises(UsageError, match=f"provider {name} cannot be asked for precision bf16"):
        OnnxRuntime(bundle, provider=name, precision="bf16")


def test_a_graph_that_the_provider_has_no_kernels_for_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOrt())
    with OnnxRuntime(bundle) as runtime:
        graphs = {name: types.SimpleNamespace(precision="bf16") for name in ("text_adapter",)}
        stand_in = types.SimpleNamespace(
            path=bundle.path, config=CONFIG, manifest=types.SimpleNamespace(graphs=graphs)
        )
        monkeypatch.setattr(runtime, "bundle", stand_in)
        context = np.zeros((1, 12, 32), np.float32)
        with pytest.raises(RuntimeFailure, match="is bf16, which provider cpu has no kernels for"):
            runtime.adapt(context, np.ones((1, 12), np.int64))


@pytest.mark.parametrize(
    ("ort", "precision", "expected"),
    [
        (FakeOrt(), None, "cpu"),
        (FakeOrt(WITH_CUDA), None, "cuda"),
        # Built with CUDA, on a machine without a GPU.
        (FakeOrt(WITH_CUDA, working=CPU_ONLY), None, "cpu"),
        (FakeOrt(devices=[OPENVINO]), None, "openvino"),
        (FakeOrt(WITH_CUDA, devices=[OPENVINO]), "bf16", "openvino"),
    ],
)
def test_auto_takes_the_first_that_works(
    ort: FakeOrt, precision: str | None, expected: str, plugin: None
) -> None:
    assert find_provider(ort, "auto", ["fp32"], precision).name == expected


def test_auto_passes_over_a_provider_that_leaves_attention_to_the_cpu(
    plugin: None, tmp_path: Path
) -> None:
    # As OpenVINO's plugin 1.8.1 does with graphs of opset 23: its toy works all the same.
    ort = FakeOrt(devices=[OPENVINO], strays=["Attention"])
    assert find_provider(ort, "auto", ["fp32"], graph=tmp_path / "model.onnx").name == "cpu"
    message = "left 1 Attention to the CPU; choose provider cpu, or runtime openvino in its place"
    with pytest.raises(RuntimeFailure, match=message):
        open_session(ort, tmp_path / "model.onnx", PROVIDERS["openvino"])


def test_an_old_library_names_the_least_version(
    bundle: Bundle, plugin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = FakeOrt(WITH_CUDA, version="1.22.1", max_opset=22)
    line = r"constraints.txt '.\[cuda\]'"
    with pytest.raises(MissingDependencyError, match=f"needs onnxruntime 1.31 or later.*{line}"):
        find_provider(old, "cuda", ["fp32"])
    with pytest.raises(MissingDependencyError, match=r"1\.22\.1 is installed"):
        find_provider(FakeOrt(devices=[OPENVINO], version="1.22.1"), "openvino", ["fp32"])
    # The CPU runs graphs of opset 18 with versions older than that.
    with pytest.raises(RuntimeFailure, match=r"onnxruntime 1\.22\.1 is too old; .* 1\.24 or later"):
        open_session(old, Path("model.onnx"), PROVIDERS["cpu"])
    assert lacks_kernels(FakeOrt(version="1.31.1"), PROVIDERS["cpu"], "fp8") is not None
    assert lacks_kernels(FakeOrt(version="1.100.0"), PROVIDERS["cpu"], "fp8") is None


def test_pyproject_promises_the_same_version() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert extras["cpu"] == [f"onnxruntime>={MIN_VERSION}"]
    # With the libraries of CUDA, which the package does not bring by itself.
    assert extras["cuda"] == [f"onnxruntime-gpu[cuda,cudnn]>={PROVIDERS['cuda'].since}"]
    assert f"onnxruntime>={PROVIDERS['tensorrt-rtx'].since}" in extras["ort-rtx"]
    least = ".".join(map(str, openvino._MIN_VERSION))
    assert f"openvino>={least}" in extras["openvino"]


def test_auto_keeps_what_was_asked_for(no_plugin: None) -> None:
    with pytest.raises(RuntimeFailure, match="no provider that works here runs bf16, fp32;"):
        find_provider(FakeOrt(), "auto", ["fp32", "bf16"])
    with pytest.raises(RuntimeFailure, match="runs fp32 and computes in bf16"):
        find_provider(FakeOrt(), "auto", ["fp32"], "bf16")


def test_what_auto_chose_is_printed(
    bundle: Bundle,
    no_plugin: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(
        OnnxRuntime, "encode", lambda self, ids, mask: np.ones((*ids.shape, 32), np.float32)
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOrt())
    arguments = ("embed", bundle.path, "red", "-o", tmp_path / "t.npz", "--provider", "auto")
    done = run(capsys, *arguments)
    assert (done.code, done.err) == (0, "minit2i: provider cpu (chosen by auto)\n")


@pytest.mark.parametrize(
    ("ort", "message"),
    [
        (FakeOrt(WITH_CUDA, working=CPU_ONLY), "left everything to the CPU"),
        (FakeOrt(WITH_CUDA, strays=["MatMul", "Shape", "Softmax", "MatMul"]), "2 MatMul, 1 Soft"),
    ],
)
def test_work_that_lands_on_the_cpu_is_an_error(ort: FakeOrt, message: str) -> None:
    with pytest.raises(RuntimeFailure, match=message):
        open_session(ort, Path("model.onnx"), PROVIDERS["cuda"])


def test_small_work_on_shapes_may_stay_on_the_cpu() -> None:
    open_session(FakeOrt(WITH_CUDA, strays=["Shape", "Gather"]), b"", PROVIDERS["cuda"])


def test_wrong_values_are_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = FakeOrt(WITH_CUDA)
    assert run_toy(ort, PROVIDERS["cuda"]) < 1e-5

    def wrong(self: Any, binding: Any) -> None:
        binding.outputs["y"][...] = np.nan

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", wrong)
    with pytest.raises(RuntimeFailure, match="provider cuda is off by nan"):
        run_toy(ort, PROVIDERS["cuda"])


def test_the_state_never_leaves_the_device(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = FakeOrt(WITH_CUDA)
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 3, 32, 32)).astype(np.float32)
    shape = (2, 2, CONFIG.num_text_tokens, CONFIG.hidden_size)
    tokens = rng.standard_normal(shape).astype(np.float32)
    values = np.array([0.5, 0.25, -0.5, -1.0, 0.0, 0.0], np.float32)
    rows = [
        Row(values=values, weights=np.array(weights, np.float32))
        for weights in ([3, -2], [1], [3, -2], [1], [2, -1])
    ]
    expected = FakeTrajectory(x.copy(), tokens)
    with OnnxRuntime(bundle, provider="cuda", cuda_graph="off") as runtime:
        state = runtime.start(x, tokens)
        for row in rows[:2]:
            state.step(row)
        ort.copies.clear()
        for row in rows[2:]:
            state.step(row)
        assert ort.copies == []
        actual = state.state()
        assert ort.copies == ["from cuda", "from cuda"]
    for row in rows:
        expected.step(row)
    assert all(map(np.array_equal, actual, expected.state()))
    bindings = ort.sessions[-1].bindings
    assert all(set(binding.devices.values()) == {"cuda"} for binding in bindings)
    assert max(binding.host_bytes for binding in bindings) == 2 * (6 * 4 + 2 * 4)
    # Two pairs of buffers that swap, and no others.
    pairs = {(id(b.inputs["x"]), id(b.outputs["x_next"])) for b in bindings}
    assert len(pairs) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_nvidia_providers_prove_themselves(name: str) -> None:
    ort = pytest.importorskip("onnxruntime")
    provider = PROVIDERS[name]
    try:
        assert run_toy(ort, provider) <= 0.01
    except MissingDependencyError as error:
        pytest.skip(str(error))
    except RuntimeFailure as error:
        # TensorRT is a library of its own, and RTX's plugin takes no GPU for data centers.
        if name == "cuda":
            raise
        pytest.xfail(str(error))
