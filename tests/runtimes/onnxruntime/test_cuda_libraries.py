"""What provider cuda needs beside onnxruntime: loaded once, or named with its remedy."""

from __future__ import annotations

import json
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.fields import GraphInfo, TensorInfo
from minit2i_deploy.errors import DeviceWarning, PrecisionWarning, RuntimeFailure, UsageError
from minit2i_deploy.runtimes.compiled_cache import KEY_FILE
from minit2i_deploy.runtimes.cuda.devices import Gpu
from minit2i_deploy.runtimes.onnxruntime import providers, session
from minit2i_deploy.runtimes.onnxruntime.provider_options import ProviderSettings, attach
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS, check_present, lacks_kernels
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxRuntime
from minit2i_deploy.runtimes.onnxruntime.session import find_provider, open_session
from tests.helpers.bundles import write_bundle
from tests.helpers.fakes.fake_cudart import FakeCudart, install
from tests.helpers.fakes.fake_onnxruntime import FakeOrt

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
WITH_CUDA = (CUDA, "CPUExecutionProvider")


class CudaOrt(FakeOrt):
    """Built for CUDA 13, as onnxruntime-gpu is from pip."""

    cuda_version = "13.0"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.loads = 0

    def set_default_logger_severity(self, severity: int) -> None:
        assert severity > 2  # warnings and less are silent

    def preload_dlls(self) -> None:
        self.loads += 1
        print("Failed to load /x/libcublas.so.13: file too short")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_bundle(tmp_path / "bundle"))


def test_the_libraries_that_pip_installed_are_loaded_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, FakeCudart())
    ort = CudaOrt(WITH_CUDA)
    gpus = [check_present(ort, PROVIDERS["cuda"]) for _ in range(2)]
    assert gpus == [Gpu(name="Test GPU", capability=90)] * 2
    assert ort.loads == 1
    assert capsys.readouterr().out == ""


def test_threads_that_open_runtimes_at_once_leave_standard_output_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class SlowOrt(CudaOrt):
        def preload_dlls(self) -> None:
            time.sleep(0.05)
            super().preload_dlls()

    install(monkeypatch, FakeCudart())
    ort, before = SlowOrt(WITH_CUDA), sys.stdout
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: check_present(ort, PROVIDERS["cuda"]), range(4)))
    assert sys.stdout is before and ort.loads == 1


@pytest.mark.parametrize(
    ("name", "missing", "line"),
    [
        ("cuda", "libcudart.so.13", r"libcudart.so.13: cannot open .*constraints.txt '.\[cuda\]'"),
        ("cuda", "libcublas.so.13", r"lacks libcublas.so.13 \(Failed to load .*: file too short"),
        ("cuda", "libcudnn.so.9", r"text encoder lacks libcudnn.so.9 .*; run in a clone"),
        ("tensorrt", "libnvinfer.so.10", r"provider tensorrt lacks .*; install TensorRT 10"),
    ],
)
def test_a_missing_library_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, missing: str, line: str
) -> None:
    install(monkeypatch, FakeCudart(), [missing])
    with pytest.raises(RuntimeFailure, match=line) as caught:
        check_present(CudaOrt([CUDA, TENSORRT]), PROVIDERS[name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cudart", "line"),
    [
        (FakeCudart(driver=0), "there is no NVIDIA driver .*driver is insufficient.*; install it"),
        (FakeCudart(driver=12080), "driver runs CUDA 12.8, but .* need 13.0 .*; install a newer"),
        (FakeCudart(count=0), "there is no NVIDIA GPU on this machine .no CUDA-capable device"),
    ],
)
def test_a_driver_that_is_missing_or_old_is_one_line(
    monkeypatch: pytest.MonkeyPatch, cudart: FakeCudart, line: str
) -> None:
    install(monkeypatch, cudart)
    with pytest.raises(RuntimeFailure, match=line):
        check_present(CudaOrt(WITH_CUDA), PROVIDERS["cuda"])


def test_a_device_that_is_not_there_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeCudart())
    monkeypatch.setitem(sys.modules, "onnxruntime", CudaOrt(WITH_CUDA))
    for device in (1, -1):
        with pytest.raises(UsageError, match=f"device is {device}, but .* 1 NVIDIA GPU; count"):
            OnnxRuntime(bundle, provider="cuda", device=device)


def test_the_device_is_that_of_sessions_and_of_states(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeCudart(count=2))
    ort = CudaOrt(WITH_CUDA)
    monkeypatch.setitem(sys.modules, "onnxruntime", ort)
    indices: list[int] = []
    plain = ort.OrtValue.ortvalue_from_numpy

    def put(array: Any, device: str = "cpu", index: int = 0) -> Any:
        indices.append(index)
        return plain(array, device, index)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", put)
    state = pytest.importorskip("numpy").zeros((1, 3, 32, 32), "float32")
    tokens = state[:, :1].reshape(1, 1, -1, bundle.config.hidden_size)
    for mode in ("off", "on"):
        with OnnxRuntime(bundle, provider="cuda", device=1, cuda_graph=mode) as runtime:
            runtime.start(state, tokens)
    assert {s.provider_options[CUDA]["device_id"] for s in ort.sessions} == {"1"}
    assert indices and set(indices) == {1}


def test_a_gpu_without_a_precision_is_refused() -> None:
    old, new = (Gpu(name="T4", capability=number) for number in (75, 90))
    reason = lacks_kernels(FakeOrt(), PROVIDERS["cuda"], "bf16", old)
    assert reason is not None and "T4 (compute capability 7.5) does not compute" in reason
    assert "fp8" not in PROVIDERS["cuda"].runs
    assert lacks_kernels(FakeOrt(), PROVIDERS["tensorrt"], "fp8", old) is not None
    for precision in ("fp32", "fp16"):
        assert lacks_kernels(FakeOrt(), PROVIDERS["cuda"], precision, old) is None
    assert lacks_kernels(FakeOrt(), PROVIDERS["tensorrt"], "fp8", new) is None


def test_fp32_is_fp32_unless_tf32_is_asked_for() -> None:
    for tf32, value in ((False, "0"), (True, "1")):
        ort = FakeOrt(WITH_CUDA)
        open_session(ort, b"", PROVIDERS["cuda"], tf32=tf32)
        assert ort.sessions[0].provider_options[CUDA]["use_tf32"] == value


def test_auto_says_why_it_does_not_use_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "check_cuda", _no_cudnn)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    for driver in (True, False):
        monkeypatch.setattr(session, "has_driver", lambda driver=driver: driver)
        ort = FakeOrt(WITH_CUDA)
        if driver:
            with pytest.warns(DeviceWarning, match="the GPU is not used: cuDNN is missing"):
                assert find_provider(ort, "auto", ["fp32"]).name == "cpu"
        else:
            assert find_provider(ort, "auto", ["fp32"]).name == "cpu"


def _no_cudnn(ort: Any, ep: str, device: int) -> None:
    raise RuntimeFailure("cuDNN is missing")


def test_an_int8_bundle_on_cuda_is_warned_of(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeOrt(WITH_CUDA))
    with OnnxRuntime(bundle, provider="cuda") as runtime:
        info = types.SimpleNamespace(precision="int8")
        manifest = types.SimpleNamespace(graphs={"transformer": info}, free_axes={})
        fake = types.SimpleNamespace(
            path=bundle.path, manifest=manifest, graph_path=lambda name: Path("model.onnx")
        )
        monkeypatch.setattr(runtime, "bundle", fake)
        with pytest.warns(PrecisionWarning, match="transformer is int8, which provider cuda runs"):
            runtime._session("transformer")


def test_tensorrt_is_given_types_and_sizes_and_cuda_behind_it() -> None:
    axes: dict[str, tuple[int | str, ...]] = {
        "x": ("batch", 3, 32, 32), "tokens": ("branches", "batch", 12, 64), "row": (6,),
    }  # fmt: skip
    inputs = {name: TensorInfo(dtype="float32", shape=shape) for name, shape in axes.items()}
    half = GraphInfo(path="model.onnx", precision="fp16", opset=23, inputs=inputs, outputs=inputs)
    (first, values), (second, behind) = attach(
        FakeOrt(), PROVIDERS["tensorrt"], None, ProviderSettings(info=half, device=1)
    )
    assert (first, second) == (TENSORRT, CUDA)
    assert values["trt_fp16_enable"] == "1" and "trt_int8_enable" not in values
    assert [values[f"trt_profile_{kind}_shapes"] for kind in ("min", "opt", "max")] == [
        "x:1x3x32x32,tokens:1x1x12x64,row:6",
        "x:1x3x32x32,tokens:2x1x12x64,row:6",
        "x:16x3x32x32,tokens:3x16x12x64,row:6",
    ]
    assert values["device_id"] == behind["device_id"] == "1"


def test_compiled_models_are_those_of_one_gpu(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where Linux does not tell of GPUs, as in some virtual machines."""
    install(monkeypatch, FakeCudart())
    monkeypatch.setitem(sys.modules, "onnxruntime", CudaOrt([TENSORRT, CUDA]))
    with OnnxRuntime(bundle, provider="tensorrt", cache=tmp_path / "cache") as runtime:
        runtime._session("text_encoder")
    (key,) = (tmp_path / "cache").glob(f"*/{KEY_FILE}")
    assert json.loads(key.read_text())["device"].endswith("; Test GPU sm90")


def test_a_plugin_of_nvidia_finds_the_library_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx = "NvTensorRTRTXExecutionProvider"
    library = tmp_path / "libcudart.so.13.4.36"
    library.write_bytes(b"")
    plugin = types.ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    plugin.get_library_path = lambda: str(tmp_path / "plugin.so")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, plugin.__name__, plugin)
    monkeypatch.setattr(providers, "_registered", set())
    names = install(monkeypatch, FakeCudart())
    ort = FakeOrt(devices=[rtx, rtx])
    open_session(ort, b"", PROVIDERS["tensorrt-rtx"], device=1)
    assert names == [str(library)] and ort.registered == [rtx]
    with pytest.raises(UsageError, match="device is 2, but provider tensorrt-rtx has 2"):
        open_session(ort, b"", PROVIDERS["tensorrt-rtx"], device=2)
