"""One engine on the GPU and its contexts: shapes, addresses, one call."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import TensorInfo
from minit2i_deploy.engines.cache import CachedEngine
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.runtimes.cuda.driver import CudaDriver
from minit2i_deploy.runtimes.cuda.memory import DeviceMemory, GrowingBuffer
from minit2i_deploy.runtimes.tensorrt.library import RuntimeLibrary

# TensorRT's name of a type -> numpy's.
_DTYPES: Final = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
JIT_CACHE_FILE: Final = "kernels.cache"


class Gpu:
    """What all engines of a runtime share: library, GPU, stream and memory."""

    def __init__(self, library: RuntimeLibrary, device: int) -> None:
        self.library = library
        self.driver = CudaDriver(device, library.extra)
        self.stream = self.driver.new_stream()
        self.memory = DeviceMemory(self.driver)
        self.scratch = GrowingBuffer(self.memory, "the engines' scratch memory")
        self.loader = library.module.Runtime(library.logger)
        self._open = True

    def use(self) -> None:
        """Choose the GPU; every public call of a runtime and its trajectories begins so.

        Raises:
            RuntimeFailure: the runtime was closed, the thread is not the one that opened it, or
                the GPU has failed.
        """
        if not self._open:
            raise RuntimeFailure("the runtime is closed; open it again")
        self.driver.use()

    def settle(self) -> None:
        """Let what is queued end, however it ends, before its memory goes."""
        self.driver.check_thread()
        self.driver.release("cudaSetDevice", self.driver.device)
        self.driver.release("cudaStreamSynchronize", self.stream)

    def close(self) -> None:
        """Give the memory and the stream back."""
        self._open = False
        self.memory.close()
        self.driver.release("cudaStreamDestroy", self.stream)


class Engine:
    """An engine of one graph.

    Args:
        gpu: that runs it.
        bundle: that the graph is of.
        cached: the engine's files.

    Raises:
        RuntimeFailure: the library refuses the plan, or it is not of this graph.
    """

    def __init__(self, gpu: Gpu, bundle: Bundle, cached: CachedEngine) -> None:
        self.gpu, self.cached = gpu, cached
        self.graph = cached.record.key.graph
        self.info = bundle.manifest.graphs[self.graph]
        self.native = load_plan(gpu, cached)
        self._check_tensors()
        stored = cached.folder / JIT_CACHE_FILE
        self.jit_cache = gpu.library.new_jit_cache(
            self.native, stored.read_bytes() if stored.is_file() else None
        )

    def takes(self, sizes: Mapping[str, int]) -> bool:
        """Whether free sizes lie within those it was built for."""
        limits = self.cached.record.key.sizes
        return all(limits[name][0] <= size <= limits[name][2] for name, size in sizes.items())

    def profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The first profile that takes these input shapes.

        Raises:
            RuntimeFailure: none does.
        """
        for index in range(self.native.num_optimization_profiles):
            if all(self._within(name, shape, index) for name, shape in shapes.items()):
                return index
        sizes = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise RuntimeFailure(
            f"{self.cached.plan}: no profile takes {sizes}; build an engine for these sizes with "
            "minit2i build"
        )

    def _within(self, name: str, shape: tuple[int, ...], profile: int) -> bool:
        least, _, most = self.native.get_tensor_profile_shape(name, profile)
        bounds = zip(tuple(least), shape, tuple(most), strict=True)
        return all(low <= size <= high for low, size, high in bounds)

    def _check_tensors(self) -> None:
        native, modes = self.native, self.gpu.library.module.TensorIOMode
        names = [native.get_tensor_name(i) for i in range(native.num_io_tensors)]
        actual = {
            mode: {n: _DTYPES.get(native.get_tensor_dtype(n).name, "?") for n in names
                   if native.get_tensor_mode(n) == mode}
            for mode in (modes.INPUT, modes.OUTPUT)
        }  # fmt: skip
        expected = {modes.INPUT: _types(self.info.inputs), modes.OUTPUT: _types(self.info.outputs)}
        if actual != expected:
            raise RuntimeFailure(
                f"{self.cached.plan}: has tensors {list(actual.values())}, but the graph has "
                f"{list(expected.values())}; run minit2i build again"
            )


def load_plan(gpu: Gpu, cached: CachedEngine) -> Any:
    """Deserialize a plan, TensorRT's word for an engine's bytes.

    Raises:
        RuntimeFailure: the library refuses it; the reason stands in the text.
    """
    library = gpu.library
    library.forget_lines()
    with cached.plan.open("rb") as file:
        # Mapped, because a plan holds all weights and the library copies them to the GPU.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            native = gpu.loader.deserialize_cuda_engine(plan)
            reason = None if native is not None else library.why_invalid(gpu.loader, plan)
    if native is not None:
        return native
    what = f"{cached.plan}: {library.name} {library.version} refuses this engine"
    if reason is not None:
        raise RuntimeFailure(f"{what}: {reason}; run minit2i build again on this machine")
    raise library.failure(what)


class Context:
    """An engine at given shapes, its addresses bound by name.

    Args:
        engine: that it runs.
        specialize: TensorRT-RTX only: compile for the very shapes; worth it where they stay.
    """

    def __init__(self, engine: Engine, *, specialize: bool) -> None:
        self.engine = engine
        gpu = engine.gpu
        self.native = gpu.library.new_context(
            engine.native, specialize=specialize, jit_cache=engine.jit_cache
        )
        self._scratch_version = -1
        self._scratch_bytes = 0

    def set_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Choose the profile, fix the shapes of all inputs and reserve scratch memory for them.

        Raises:
            RuntimeFailure: no profile takes them, or the GPU has too little memory.
        """
        gpu, native = self.engine.gpu, self.native
        profile = self.engine.profile(shapes)
        if native.active_optimization_profile != profile:
            try:
                native.set_optimization_profile_async(profile, int(gpu.stream))
            except RuntimeError as error:  # TensorRT's Python binding raises here, and only here
                where = f"{self.engine.cached.plan}: profile {profile}"
                raise gpu.library.failure(where) from error
        for name, shape in shapes.items():
            if not native.set_input_shape(name, shape):
                raise gpu.library.failure(f"{self.engine.cached.plan}: {name} {list(shape)}")
        # What is queued may use the scratch, or the host's part of the profile's change.
        gpu.driver.wait(gpu.stream)
        self._scratch_bytes = max(int(native.update_device_memory_size_for_shapes()), 1)
        gpu.scratch.reserve(self._scratch_bytes)
        self._scratch_version = -1

    def bind(self, name: str, address: int) -> None:
        """Where a tensor is; the address is a multiple of 256."""
        if not self.native.set_tensor_address(name, address):
            raise self.engine.gpu.library.failure(f"{self.engine.cached.plan}: address of {name}")

    def run(self) -> None:
        """Queue one run on the GPU's stream.

        Raises:
            RuntimeFailure: the library refuses.
        """
        gpu = self.engine.gpu
        if self._scratch_version != gpu.scratch.version:
            self.native.set_device_memory(gpu.scratch.address, self._scratch_bytes)
            self._scratch_version = gpu.scratch.version
        if not self.native.execute_async_v3(int(gpu.stream)):
            raise gpu.library.failure(f"{gpu.library.name} failed in {self.engine.graph}")


class HostCall:
    """A graph that takes arrays of the host and gives its outputs back."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Its shapes change from call to call, so kernels are not compiled for each.
        self._context = Context(engine, specialize=False)
        memory = engine.gpu.memory
        names = (*engine.info.inputs, *engine.info.outputs)
        self._buffers = {n: GrowingBuffer(memory, f"{engine.graph}'s {n}") for n in names}

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run it once; its outputs by name.

        Raises:
            RuntimeFailure: the engine failed or does not take these shapes.
        """
        gpu, context = self._engine.gpu, self._context
        gpu.library.forget_lines()
        context.set_shapes({name: array.shape for name, array in inputs.items()})
        for name, array in inputs.items():
            values = np.ascontiguousarray(array, self._engine.info.inputs[name].dtype)
            self._bind(name, values.nbytes)
            gpu.driver.to_device(self._buffers[name].address, values, gpu.stream)
        results = {
            name: np.empty(tuple(context.native.get_tensor_shape(name)), info.dtype)
            for name, info in self._engine.info.outputs.items()
        }
        for name, result in results.items():
            self._bind(name, result.nbytes)
        context.run()
        for name, result in results.items():
            gpu.driver.to_host(result, self._buffers[name].address, gpu.stream)
        gpu.driver.wait(gpu.stream)
        return results

    def _bind(self, name: str, num_bytes: int) -> None:
        buffer = self._buffers[name]
        buffer.reserve(num_bytes)
        self._context.bind(name, buffer.address)


def _types(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    return {name: info.dtype for name, info in tensors.items()}
