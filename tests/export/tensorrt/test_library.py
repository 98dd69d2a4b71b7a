"""How the two engine libraries, their versions and the GPU are handled, on stand-ins."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minit2i_deploy import errors as errors_module
from minit2i_deploy.engines import library as library_module
from minit2i_deploy.engines.key import PORTABLE, BuildFlags
from minit2i_deploy.errors import (
    Minit2iError,
    MissingDependencyError,
    RuntimeFailure,
    UsageError,
)
from minit2i_deploy.export.tensorrt import build_device as device_module
from minit2i_deploy.export.tensorrt.build import _audit
from minit2i_deploy.export.tensorrt.build_device import use_device
from minit2i_deploy.export.tensorrt.build_failure import build_failure
from minit2i_deploy.export.tensorrt.build_library import BuildLibrary
from minit2i_deploy.export.tensorrt.library_log import LibraryLog
from minit2i_deploy.export.tensorrt.timing_cache import load_timing_cache


class FakeConfig:
    """Takes what Library sets."""

    def __init__(self) -> None:
        self.on: set[str] = set()
        self.off: set[str] = set()
        self.capabilities: dict[int, str] = {}
        self.pools: dict[str, int] = {}

    def set_flag(self, flag: str) -> None:
        self.on.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.off.add(flag)

    def set_compute_capability(self, capability: str, index: int) -> None:
        self.capabilities[index] = capability

    def set_memory_pool_limit(self, pool: str, limit: int) -> None:
        self.pools[pool] = limit


def fake_module(**missing: bool) -> types.SimpleNamespace:
    """The names that Library uses; those given as True are left out."""
    flags = {name: name for name in ("REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE", "TF32")}
    levels = {name: name for name in ("SAME_COMPUTE_CAPABILITY", "AMPERE_PLUS")}
    creation = {} if missing.get("strongly_typed") else {"STRONGLY_TYPED": 1}
    return types.SimpleNamespace(
        __version__="10.15.1",
        BuilderFlag=types.SimpleNamespace(**{k: v for k, v in flags.items() if k not in missing}),
        HardwareCompatibilityLevel=types.SimpleNamespace(**levels),
        MemoryPoolType=types.SimpleNamespace(WORKSPACE="WORKSPACE"),
        NetworkDefinitionCreationFlag=types.SimpleNamespace(**creation),
        ProfilingVerbosity=types.SimpleNamespace(DETAILED="DETAILED"),
        ComputeCapability=types.SimpleNamespace(SM89="SM89", SM120="SM120", CURRENT="CURRENT"),
    )


def library_of(module: Any, name: str = "tensorrt") -> BuildLibrary:
    return BuildLibrary(name, module)


@pytest.mark.parametrize("dropped, flags", [(False, 2), (True, 0)])
def test_networks_are_strongly_typed_in_every_version(dropped: bool, flags: int) -> None:
    builder = types.SimpleNamespace(create_network=lambda flags: flags)
    module = fake_module(strongly_typed=dropped)
    assert library_of(module).create_network(builder) == flags


def test_flags_are_set_and_the_others_cleared() -> None:
    config: Any = FakeConfig()
    flags = BuildFlags(
        refit=True, hardware_level="ampere-plus", workspace_bytes=10, optimization_level=4
    )
    library_of(fake_module()).set_flags(config, flags)
    assert config.on == {"REFIT"}
    # Left alone, TF32 is on.
    assert config.off == {"STRIP_PLAN", "VERSION_COMPATIBLE", "TF32"}
    assert config.hardware_compatibility_level == "AMPERE_PLUS"
    assert config.pools == {"WORKSPACE": 10}
    assert config.builder_optimization_level == 4
    assert config.profiling_verbosity == "DETAILED"


@pytest.mark.parametrize(
    "values", [{"version_compatible": True}, {"hardware_level": "ampere-plus"}]
)
def test_rtx_takes_no_flag_that_only_tensorrt_has(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="one version and their --target GPUs"):
        library_of(fake_module(), "tensorrt_rtx").set_flags(FakeConfig(), BuildFlags(**values))


def test_a_switch_that_the_library_lacks_is_named() -> None:
    module = fake_module(STRIP_PLAN=True)
    library_of(module).set_flags(FakeConfig(), BuildFlags())
    with pytest.raises(UsageError, match="STRIP_PLAN"):
        library_of(module).set_flags(FakeConfig(), BuildFlags(strip_weights=True))


def test_targets_are_set_for_rtx_only() -> None:
    config = FakeConfig()
    library = library_of(fake_module(), "tensorrt_rtx")
    library.set_targets(config, ("sm89", "sm120"))
    assert config.capabilities == {0: "SM89", 1: "SM120"}
    config = FakeConfig()
    library.set_targets(config, ("native:sm89:NVIDIA L4",))
    assert config.capabilities == {0: "CURRENT"}
    config = FakeConfig()
    library.set_targets(config, (PORTABLE,))
    library_of(fake_module()).set_targets(config, ("native:sm90:NVIDIA H200",))
    assert config.capabilities == {}
    with pytest.raises(UsageError, match="no target sm121"):
        library.set_targets(config, ("sm121",))


def test_plans_are_written_where_the_library_cannot_stream(tmp_path: Path) -> None:
    builder = types.SimpleNamespace(build_serialized_network=lambda network, config: b"plan")
    library = library_of(fake_module())
    with (tmp_path / "x").open("wb") as stream:
        assert library.serialize(builder, None, None, stream)
        builder.build_serialized_network = lambda network, config: None
        assert not library.serialize(builder, None, None, stream)
    assert (tmp_path / "x").read_bytes() == b"plan"


class Streaming:
    """A builder that hands its plan over in pieces, as long as they are taken."""

    def build_serialized_network_to_stream(self, network: Any, config: Any, writer: Any) -> bool:
        return all(writer.write(b"x" * 100_000) == 100_000 for _ in range(3))


def test_plans_are_written_in_pieces_and_a_full_disk_is_named(tmp_path: Path) -> None:
    module = fake_module()
    module.IStreamWriter = object
    library = library_of(module)
    with (tmp_path / "x").open("wb") as stream:
        assert library.serialize(Streaming(), None, None, stream)
    assert (tmp_path / "x").stat().st_size == 300_000
    with Path("/dev/full").open("wb", buffering=0) as full:
        with pytest.raises(Minit2iError, match="No space left"):
            library.serialize(Streaming(), None, None, full)


class Inspected:
    """A runtime, an engine and its inspector in one, as far as an audit needs them."""

    def __init__(self, engine: bytes | None) -> None:
        self.engine = engine

    def __call__(self, logger: str) -> Inspected:
        assert logger == "logger"
        return self

    def deserialize_cuda_engine(self, plan: mmap.mmap) -> Inspected | None:
        return self if plan[:] == self.engine else None

    def create_engine_inspector(self) -> Inspected:
        return self

    def get_engine_information(self, form: str) -> str:
        assert form == "as JSON"
        layer = {
            "Name": "_gemm_mha_v2_myl0", "LayerType": "kgen", "TacticName": "",
            "Inputs": [{"Dimensions": [2, 8], "Datatype": "Half"}],
        }  # fmt: skip
        return json.dumps({"Layers": [layer]})


def test_without_layers_in_the_log_the_engine_is_inspected(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_bytes(b"engine")
    module = fake_module()
    module.LayerInformationFormat = types.SimpleNamespace(JSON="as JSON")
    library = library_of(module)
    for engine, source, fused in ((b"engine", "inspector", 1), (None, "unknown", 0)):
        module.Runtime = Inspected(engine)
        actual = _audit(library, plan, "logger", LibraryLog(), 2)
        assert (actual.source, actual.attention_fused) == (source, fused)
    # What the log lists needs no engine.
    module.Runtime = None
    log = LibraryLog(layers="Name: a_gemm_mha_v2, LayerType: kgen, Inputs: [], TacticName: x\n")
    assert _audit(library, plan, "logger", log, 1).source == "log"


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Make modules importable or not: a stand-in, or the error that importing raises."""

    def put(modules: dict[str, Any]) -> None:
        def load(name: str) -> Any:
            module = modules.get(name, ModuleNotFoundError(f"No module named {name!r}", name=name))
            if isinstance(module, BaseException):
                raise module
            return module

        def find(name: str) -> Any:
            return object() if name in modules else None

        stand_in = types.SimpleNamespace(
            import_module=load, util=types.SimpleNamespace(find_spec=find)
        )
        monkeypatch.setattr(library_module, "importlib", stand_in)
        monkeypatch.setattr(errors_module, "importlib", stand_in)

    return put


def test_a_library_is_opened_under_either_name(imports: Callable[[dict[str, Any]], None]) -> None:
    imports({"tensorrt_rtx": types.SimpleNamespace(__version__="1.7.1.116")})
    library = BuildLibrary.open("tensorrt_rtx")
    assert (library.name, library.version, library.is_rtx) == ("tensorrt_rtx", "1.7.1.116", True)


@pytest.mark.parametrize(
    "name, modules, error, text",
    [
        ("tensorrt", {}, MissingDependencyError, r"constraints.txt '.\[tensorrt\]'"),
        ("tensorrt_rtx", {}, MissingDependencyError, r"constraints.txt '.\[rtx\]'"),
        (
            "tensorrt",
            {"tensorrt_rtx_bindings": object()},
            MissingDependencyError,
            r"tensorrt-rtx is; choose that instead",
        ),
        (
            "tensorrt",
            {"tensorrt": types.SimpleNamespace(__version__="10.3.0")},
            RuntimeFailure,
            "10.3.0 is installed, expected 10.15 or later",
        ),
        (
            "tensorrt",
            {"tensorrt": ImportError("libnvinfer.so.10: cannot open\nmore")},
            RuntimeFailure,
            "libnvinfer.so.10: cannot open",
        ),
        (
            "tensorrt",
            {"tensorrt": ModuleNotFoundError("No module named 'numpy'", name="numpy")},
            RuntimeFailure,
            "numpy",
        ),
    ],
)
def test_a_library_that_is_not_there_is_explained(
    imports: Callable[[dict[str, Any]], None],
    name: str,
    modules: dict[str, Any],
    error: type[Exception],
    text: str,
) -> None:
    imports(modules)
    with pytest.raises(error, match=text) as caught:
        BuildLibrary.open(name)
    assert "\n" not in str(caught.value)
    assert library_module.installed_version(name) is None


class FakeDriver:
    """A CUDA driver with one H200, or with the failure that is given."""

    class CUresult:
        CUDA_SUCCESS = 0

    class CUdevice_attribute:
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = "major"
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = "minor"

    def __init__(self, status: Any = 0) -> None:
        self.status = status
        self.current: Any = None

    def cuInit(self, flags: int) -> tuple[Any]:
        if isinstance(self.status, Exception):
            raise self.status
        return (self.status,)

    def cuDeviceGetCount(self) -> tuple[int, int]:
        return 0, 1

    def cuDeviceGet(self, index: int) -> tuple[int, str]:
        return 0, f"device {index}"

    def cuDeviceGetName(self, length: int, device: str) -> tuple[int, bytes]:
        return 0, b"NVIDIA H200\0\0"

    def cuDeviceGetAttribute(self, attribute: str, device: str) -> tuple[int, int]:
        return 0, {"major": 9, "minor": 0}[attribute]

    def cuDevicePrimaryCtxRetain(self, device: str) -> tuple[int, str]:
        return 0, f"context of {device}"

    def cuCtxSetCurrent(self, context: str) -> tuple[int]:
        self.current = context
        return (0,)


def test_the_gpu_is_that_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver()
    monkeypatch.setattr(device_module, "_driver", lambda: driver)
    device = use_device(0)
    assert (device.capability, device.name) == (90, "NVIDIA H200")
    assert driver.current == "context of device 0"
    with pytest.raises(UsageError, match="there is no GPU 1; the driver has 1"):
        use_device(1)


@pytest.mark.parametrize(
    "status, text",
    [
        (types.SimpleNamespace(name="CUDA_ERROR_NO_DEVICE"), "CUDA_ERROR_NO_DEVICE"),
        (RuntimeError("libcuda.so.1 is not found\nmore"), "no NVIDIA driver is installed"),
    ],
)
def test_no_card_is_explained(monkeypatch: pytest.MonkeyPatch, status: Any, text: str) -> None:
    monkeypatch.setattr(device_module, "_driver", lambda: FakeDriver(status))
    with pytest.raises(RuntimeFailure, match=text) as caught:
        use_device(0)
    assert "--engine tensorrt-rtx" in str(caught.value) and "\n" not in str(caught.value)


class FakeTimingConfig:
    """A config whose timing caches are those that begin with ``cache``."""

    def create_timing_cache(self, data: bytes) -> Any:
        return None if data and not data.startswith(b"cache") else data

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return not ignore_mismatch


def test_timing_caches(tmp_path: Path) -> None:
    library, config = library_of(fake_module()), FakeTimingConfig()
    path = tmp_path / "timing"
    assert load_timing_cache(library, config, None) is None
    assert load_timing_cache(library, config, path) == b""
    path.write_bytes(b"cache 1")
    assert load_timing_cache(library, config, path) == b"cache 1"
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="not a timing cache"):
        load_timing_cache(library, config, path)
    with pytest.raises(UsageError, match="folder does not exist"):
        load_timing_cache(library, config, tmp_path / "no" / "timing")
    with pytest.raises(UsageError, match="omit --timing-cache"):
        load_timing_cache(library_of(fake_module(), "tensorrt_rtx"), config, path)


@pytest.mark.parametrize(
    "message, text",
    [
        ("Attention operation was not supported by a dedicated kernel.", "--allow-unfused"),
        ("[virtualMemoryBuffer.cpp::resizePhysical] OutOfMemory (requested 9)", "--max-batch"),
        ("Cuda failure: cudaErrorMemoryAllocation", "--workspace"),
        ("Could not find any implementation for node X.", "any implementation for node X"),
    ],
)
def test_a_failed_build_says_what_to_do(message: str, text: str) -> None:
    log = LibraryLog(errors=[f"IBuilder::buildSerializedNetwork: Error Code 1: {message}"])
    library = library_of(fake_module())
    flags = BuildFlags(workspace_bytes=2 * 10**9)
    failure = build_failure(library, Path("g/model.onnx"), log, flags)
    assert text in str(failure) and str(failure).startswith(f"{Path('g/model.onnx')}: tensorrt")


@pytest.mark.parametrize(
    "message",
    [
        "graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.",
        "Target SM 80 is not found in the accelerator list.",
        "kernel_gen.cpp:1249: CHECK(sm_vers_.size() == 1) failed.",
    ],
)
def test_a_refittable_build_without_its_gpu_says_so(message: str) -> None:
    """What TensorRT-RTX 1.7.1 said without a GPU, for sm80, for sm89 and for two targets."""
    library, log = library_of(fake_module(), "tensorrt_rtx"), LibraryLog(errors=[message])
    refit = build_failure(library, Path("model.onnx"), log, BuildFlags(refit=True))
    assert "--target native" in str(refit)
    assert "--target native" not in str(build_failure(library, Path("m"), log, BuildFlags()))


def test_the_package_needs_neither_torch_nor_onnx() -> None:
    """Machines with GPUs often have neither."""
    code = "import sys, minit2i_deploy.export.tensorrt, minit2i_deploy.cli.build\n"
    code += "print([n for n in ('torch', 'onnx', 'onnx_ir', 'transformers') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
