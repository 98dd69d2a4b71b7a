"""A stand-in for the onnxruntime module with devices of its own; it counts copies to the host."""

from __future__ import annotations

import ctypes
import importlib.machinery
import types
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minit2i_deploy.solvers.row import Known, advance

# As onnxruntime-gpu 1.31.1 says it.
OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /onnxruntime_src/onnxruntime/"
    "core/framework/bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool,"
    " onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 11534336\n"
)


@dataclass
class Node:
    op_type: str


@dataclass
class Group:
    """Nodes of a graph on one provider."""

    ep_name: str
    nodes: list[Node]

    def get_nodes(self) -> list[Node]:
        return self.nodes


@dataclass
class Device:
    """What a plugin finds."""

    ep_name: str


class FakeOrt(types.ModuleType):
    """The parts of onnxruntime that the runtime uses.

    Args:
        providers: those that the library was built with.
        devices: names of what plugins find once they are registered.
        working: providers whose sessions can be made; None: all.
        strays: operators that sessions of a bundle's graphs, not of a toy, leave to the CPU.
        max_opset: graphs are refused where this is below 23, or None.
        version: of the library.
        recording: what CUDA graphs do: "right"; "refused" when the session is opened; "failing"
            when one is recorded; or they keep the "row" or the "state" of when they were recorded,
            or give "nothing" new.
    """

    def __init__(
        self,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        devices: Sequence[str] = (),
        working: Sequence[str] | None = None,
        strays: Sequence[str] = (),
        recording: str = "right",
        version: str = "1.32.0",
        max_opset: int | None = None,
    ) -> None:
        super().__init__("onnxruntime")
        self.__version__ = version
        self.__spec__ = importlib.machinery.ModuleSpec("onnxruntime", None)
        self.providers, self.plugin_devices = list(providers), list(devices)
        self.working, self.strays = working, list(strays)
        self.recording, self.max_opset = recording, max_opset
        self.registered: list[str] = []
        self.sessions: list[Session] = []
        self.copies: list[str] = []
        ort = self

        class Value(OrtValue):
            module = ort

        class FakeSession(Session):
            module = ort

        self.OrtValue, self.InferenceSession, self.SessionOptions = (
            Value,
            FakeSession,
            SessionOptions,
        )
        self.RunOptions = RunOptions

    def get_available_providers(self) -> list[str]:
        return self.providers

    def get_ep_devices(self) -> list[Device]:
        plugins = [Device(name) for name in self.plugin_devices if self.registered]
        return [Device("CPUExecutionProvider"), *plugins]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if name in self.registered:
            raise RuntimeError("EP library is already registered")
        self.registered.append(name)


@dataclass
class SessionOptions:
    """Settings, and what plugins were added."""

    intra_op_num_threads: int = 0
    enable_cpu_mem_arena: bool = True
    entries: dict[str, str] = field(default_factory=dict)
    added: list[tuple[list[Device], dict[str, str]]] = field(default_factory=list)

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value

    def add_provider_for_devices(self, devices: list[Device], options: dict[str, str]) -> None:
        self.added.append((devices, options))


@dataclass
class RunOptions:
    """Settings of one run."""

    entries: dict[str, str] = field(default_factory=dict)

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class OrtValue:
    """An array that is on some device; each way to or from the host is noted."""

    module: FakeOrt

    def __init__(self, array: np.ndarray, device: str, index: int = 0) -> None:
        self.array, self.device, self.index = array, device, index

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray, device: str = "cpu", index: int = 0) -> Any:
        cls.module.copies.append(f"to {device}")
        return cls(array if device == "cpu" else array.copy(), device, index)

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: list[int], kind: Any, device: str = "cpu", index: int = 0
    ) -> Any:
        return cls(np.empty(shape, kind), device, index)

    def update_inplace(self, array: np.ndarray) -> None:
        self.module.copies.append(f"to {self.device}")
        self.array[...] = array

    def shape(self) -> list[int]:
        return list(self.array.shape)

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def numpy(self) -> np.ndarray:
        self.module.copies.append(f"from {self.device}")
        return self.array


class Binding:
    """Inputs and outputs by name, and the values on the host among them."""

    def __init__(self) -> None:
        self.inputs: dict[str, np.ndarray] = {}
        self.outputs: dict[str, np.ndarray] = {}
        self.devices: dict[str, str] = {}
        self.host_bytes = 0

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        self.inputs[name], self.devices[name] = value.array, value.device

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        self.outputs[name], self.devices[name] = value.array, value.device

    def bind_input(
        self, name: str, device: str, index: int, kind: Any, shape: list[int], address: int
    ) -> None:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        raw = (ctypes.c_uint8 * size).from_address(address)
        self.inputs[name] = np.frombuffer(raw, kind).reshape(shape)
        self.devices[name] = device

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self.inputs[name] = array
        self.host_bytes += array.nbytes


class Session:
    """Computes the toy product, or the step as ``FakeRuntime`` does."""

    module: FakeOrt

    def __init__(
        self, graph: Any, options: SessionOptions, providers: Any = None, enable_fallback: int = 1
    ) -> None:
        assert enable_fallback == 0
        named = [name for name, _ in (providers or [])[:1]]
        named += [device.ep_name for devices, _ in options.added for device in devices]
        working = self.module.working
        # As the library does: one that cannot start is left out with a line in the log.
        self.names = [name for name in named if working is None or name in working]
        self.options, self.provider_options = options, dict(providers or [])
        self.bindings: list[Binding] = []
        # Number of a CUDA graph to the memory it was recorded on, and the numbers of all runs.
        self.recorded: dict[int, Binding] = {}
        self.runs: list[int] = []
        self.waits = 0
        cuda = self.provider_options.get("CUDAExecutionProvider", {})
        self.records = cuda.get("enable_cuda_graph") == "1"
        if self.records and self.module.recording == "refused":
            raise RuntimeError("cannot use the graph capture feature\nmore")
        self.is_toy = isinstance(graph, bytes)
        if self.module.max_opset is not None and not self.is_toy:
            raise RuntimeError(f"opset 23 is under development, until {self.module.max_opset}")
        self.module.sessions.append(self)

    def get_providers(self) -> list[str]:
        return [*self.names, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Group]:
        strays = Group("CPUExecutionProvider", [Node(name) for name in self.module.strays])
        if self.is_toy:
            strays.nodes.clear()
        return [Group(self.get_providers()[0], [Node("MatMul")]), strays]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: RunOptions | None = None) -> None:
        self.bindings.append(binding)
        number = int(options.entries["gpu_graph_id"]) if options is not None else -1
        self.runs.append(number)
        entries = {} if options is None else options.entries
        self.waits += entries.get("disable_synchronize_execution_providers") != "1"
        inputs, out = binding.inputs, binding.outputs
        if self.records and number >= 0:
            inputs, out = self._replay(number, binding)
        if "y" in out:
            out["y"][...] = inputs["a"] @ inputs["b"]
            return
        tokens, known = inputs["tokens"], None
        if "sequence" in inputs:
            tokens = tokens[inputs["sequence"]]
            known = Known(image=inputs["known"], mask=inputs["known_mask"])
        tone = tokens.mean(axis=(2, 3))[:, :, None, None, None]
        x0 = np.tanh(inputs["x"][None] + tone)
        x, h = advance(inputs["x"], inputs["h"], x0, inputs["weights"], inputs["row"], known)
        out["x_next"][...], out["h_next"][...] = x, h

    def _replay(
        self, number: int, binding: Binding
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """What a CUDA graph reads and writes: the memory of when it was recorded."""
        assert not binding.host_bytes, "a graph cannot read what is bound on the host"
        first = self.recorded.get(number)
        fault = self.module.recording
        if first is None:
            if fault == "failing":
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            self.recorded[number] = first = Binding()
            first.inputs, first.outputs = dict(binding.inputs), dict(binding.outputs)
            for name in {"row": ("row",), "state": ("x",)}.get(fault, ()):
                first.inputs[name] = first.inputs[name].copy()
        elif fault == "nothing":
            return first.inputs, {name: array.copy() for name, array in first.outputs.items()}
        return first.inputs, first.outputs
