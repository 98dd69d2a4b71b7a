"""A stand-in for tensorrt and tensorrt_rtx_bindings: its engines run the ONNX graph on the host."""

from __future__ import annotations

import importlib.machinery
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minit2i_deploy.bundle.names import data_beside
from minit2i_deploy.io.files import sha256_file
from tests.helpers.fakes import fake_refitter
from tests.helpers.fakes.fake_cuda import FakeCuda
from tests.helpers.fakes.fake_plan import (
    open_session,
    read_plan,
    shared_session,
    with_weights,
    write_plan,
)
from tests.helpers.fakes.fake_tensorrt_configs import RtxConfig, RuntimeConfig, SerializationConfig
from tests.helpers.fakes.fake_tensorrt_names import (
    DataType,
    DynamicShapesKernelSpecializationStrategy,
    EngineInvalidityDiagnostics,
    ExecutionContextAllocationStrategy,
    ILogger,
    NetworkDefinitionCreationFlag,
    SerializationFlag,
    TensorIOMode,
    Weights,
)

VERSION, RTX_VERSION = "10.15.1", "1.7.1"
_TYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int64)": (DataType.INT64, np.int64),
}


class FakeTensorRt(types.ModuleType):
    """One of the two libraries on a fake GPU.

    Args:
        cuda: the GPU.
        rtx: whether it is TensorRT-RTX, which has more to ask for.
    """

    DataType, TensorIOMode, ILogger, Weights = DataType, TensorIOMode, ILogger, Weights
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    SerializationFlag = SerializationFlag
    NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag

    def __init__(self, cuda: FakeCuda, *, rtx: bool) -> None:
        name = "tensorrt_rtx_bindings" if rtx else "tensorrt"
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.__version__ = RTX_VERSION if rtx else VERSION
        self.cuda, self.rtx = cuda, rtx
        self.contexts: list[ExecutionContext] = []
        self.runs: list[str] = []
        # Switches.
        self.capturable = True
        self.accept_runs = self.accept_builds = True
        self.merged: list[set[str]] = []
        self.hidden: set[str] = set()
        if rtx:
            self.DynamicShapesKernelSpecializationStrategy = (
                DynamicShapesKernelSpecializationStrategy
            )
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
        library = self

        class Runtime(_Runtime):
            module = library

        class Builder(_Builder):
            module = library

        class Refitter(fake_refitter.Refitter):
            module = library

        class RtxRuntime(Runtime, _Validity):
            pass

        self.Runtime, self.Refitter = RtxRuntime if rtx else Runtime, Refitter
        self.Builder, self.OnnxParser = Builder, OnnxParser


class _Builder:
    """Of toys: what was parsed is the plan."""

    module: FakeTensorRt

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> dict[str, bytes]:
        return {}

    def create_builder_config(self) -> None:
        return None

    def build_serialized_network(self, network: dict[str, bytes], config: None) -> bytes | None:
        if not self.module.accept_builds:
            self.logger.log(ILogger.ERROR, "a test wants no toy")
            return None
        path = Path(tempfile.mkdtemp(prefix="minit2i-toy-")) / "toy" / "model.onnx"
        path.parent.mkdir()
        path.write_bytes(network["model"])
        Path(f"{path}.data").write_bytes(b"")
        return write_plan(
            {
                "version": self.module.__version__,
                "onnx": str(path),
                "profiles": [{}],
                "scratch": 0,
                "refit": False,
                "weights": {},
            }
        )


class OnnxParser:
    """Keeps the model."""

    def __init__(self, network: dict[str, bytes], logger: ILogger) -> None:
        self._network = network

    def parse(self, model: bytes) -> bool:
        self._network["model"] = model
        return True


class _Runtime:
    module: FakeTensorRt

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, plan: Any) -> Engine | None:
        try:
            stored = read_plan(bytes(plan))
        except ValueError:
            self.logger.log(ILogger.ERROR, "magic tag assertion failed")
            self.logger.log(ILogger.ERROR, "an echo of that")
            return None
        if stored["version"] != self.module.__version__:
            self.logger.log(ILogger.ERROR, "version mismatch")
            return None
        engine = Engine if not self.module.rtx else RtxEngine
        return engine(self.module, stored, self.logger)


class _Validity:
    def get_engine_validity(self, plan: Any) -> tuple[int, int]:
        try:
            read_plan(bytes(plan))
        except ValueError:
            return 2, int(EngineInvalidityDiagnostics.MALFORMED_ENGINE)
        return 2, int(EngineInvalidityDiagnostics.VERSION_MISMATCH)


class Engine:
    """A graph with profiles."""

    def __init__(self, module: FakeTensorRt, stored: dict[str, Any], logger: ILogger) -> None:
        self.module, self.stored, self.logger = module, stored, logger
        self.refittable = bool(stored["refit"])
        self.weights: dict[str, np.ndarray] = dict(stored["weights"])
        self.device_memory_size_v2 = stored["scratch"]
        self.open_session()
        actual = [*self.session.get_inputs(), *self.session.get_outputs()]
        self._tensors = {item.name: item for item in actual}
        self._inputs = {item.name for item in self.session.get_inputs()}

    def open_session(self) -> None:
        path = Path(self.stored["onnx"])
        if self.weights:
            self.session = open_session(with_weights(path, self.weights))
        else:
            self.session = shared_session(path, sha256_file(path), sha256_file(data_beside(path)))

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.stored["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return _TYPES[self._tensors[name].type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(s if isinstance(s, int) else -1 for s in self._tensors[name].shape)

    def symbols(self, name: str) -> list[int | str]:
        return list(self._tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        sizes = self.stored["profiles"][profile]
        return [
            tuple(s if isinstance(s, int) else sizes[s][which] for s in self.symbols(name))
            for which in range(3)
        ]

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig()

    def create_execution_context(self, config: RuntimeConfig) -> ExecutionContext:
        assert config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return ExecutionContext(self)

    def create_serialization_config(self) -> SerializationConfig:
        return SerializationConfig()

    def serialize_with_config(self, config: SerializationConfig) -> bytes:
        refit = self.refittable and SerializationFlag.INCLUDE_REFIT in config.flags
        return write_plan({**self.stored, "refit": refit, "weights": self.weights})


class RtxEngine(Engine):
    """With a larger configuration for contexts."""

    def create_runtime_config(self) -> RtxConfig:
        return RtxConfig()

    def create_execution_context(self, config: Any) -> ExecutionContext:
        assert config.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        context = RtxContext(self)
        context.config = config
        return context


class ExecutionContext:
    """Shapes and addresses, strictly kept."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.module = engine, engine.module
        self.active_optimization_profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None
        self.warm = False
        self.module.contexts.append(self)

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.active_optimization_profile = profile
        self.shapes.clear()
        self.warm = False
        # As the binding does where the library returns false (pyCore.cpp of TensorRT).
        if not self.module.cuda.enqueue(stream, lambda: None):
            raise RuntimeError("Error in set optimization profile async.")
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(
            name, self.active_optimization_profile
        )
        if len(shape) != len(least) or not all(
            low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
        ):
            return self._refuse(f"{name} {shape} is outside the profile")
        self.warm = self.warm and self.shapes.get(name) == tuple(shape)
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        known = {
            symbol: size
            for tensor, shape in self.shapes.items()
            for symbol, size in zip(self.engine.symbols(tensor), shape, strict=True)
        }
        return tuple(s if isinstance(s, int) else known[s] for s in self.engine.symbols(name))

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self.shapes) == self.engine._inputs
        return int(self.engine.stored["scratch"])

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        self.scratch = (address, size)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self.engine._tensors or address % 256:
            return self._refuse(f"{name}: {address:#x} is no address for it")
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        missing = set(self.engine._tensors) - set(self.addresses)
        if missing or set(self.shapes) != self.engine._inputs:
            return self._refuse(f"tensors {sorted(missing)} have no address or no shape")
        if self.scratch is None or self.scratch[1] < self.engine.stored["scratch"]:
            return self._refuse("device memory is too small")
        if not self.module.accept_runs:
            return self._refuse("a test wants it refused")
        if self.module.cuda.is_capturing(stream) and not self.warm:
            return self._refuse("not captured: run once after shapes were set")
        self.warm = True
        shapes, addresses, scratch = dict(self.shapes), dict(self.addresses), self.scratch
        return self.module.cuda.enqueue(stream, lambda: self._compute(shapes, addresses, scratch))

    def _compute(
        self,
        shapes: dict[str, tuple[int, ...]],
        addresses: dict[str, int],
        scratch: tuple[int, int],
    ) -> None:
        cuda = self.module.cuda
        cuda.kernel()
        cuda.view(*scratch)[:] = 0xAB
        self.module.runs.append(Path(self.engine.stored["onnx"]).parent.name)
        inputs = {}
        for name, shape in shapes.items():
            dtype = np.dtype(_TYPES[self.engine._tensors[name].type][1])
            raw = cuda.view(addresses[name], int(np.prod(shape)) * dtype.itemsize)
            inputs[name] = raw.view(dtype).reshape(shape).copy()
        names = [item.name for item in self.engine.session.get_outputs()]
        for name, value in zip(names, self.engine.session.run(names, inputs), strict=True):
            raw = cuda.view(addresses[name], value.nbytes)
            raw[:] = np.ascontiguousarray(value).view(np.uint8).reshape(-1)

    def _refuse(self, message: str) -> bool:
        self.engine.logger.log(ILogger.ERROR, message)
        return False


class RtxContext(ExecutionContext):
    """Which tells whether it can be captured, and compiles on its first run."""

    config: RuntimeConfig

    def is_stream_capturable(self, stream: int) -> bool:
        return self.module.capturable

    def execute_async_v3(self, stream: int) -> bool:
        if self.config.cache is not None and not self.config.cache.content:
            self.config.cache.content = b"kernels"
        return super().execute_async_v3(stream)
