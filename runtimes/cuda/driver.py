"""The CUDA calls of one thread on one GPU, through cuda-python; every error code is raised.

Bound to the thread that opened it: CUDA keeps the chosen GPU for each thread, and TensorRT's
contexts are not to be shared between threads.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import RuntimeFailure, UsageError, require

_MIB: Final = 2**20
# A stream that does not wait for the default one, which other libraries use.
_NON_BLOCKING: Final = 1


class CudaFailure(RuntimeFailure):
    """A CUDA call failed; ``code`` is its name, for example cudaErrorMemoryAllocation."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class CudaDriver:
    """One GPU, seen from one thread.

    Args:
        device: index of the GPU.
        extra: extra of this distribution that brings cuda-python, for the error.

    Raises:
        UsageError: there is no GPU of that index.
        MissingDependencyError: cuda-python is not installed.
        RuntimeFailure: there is no driver, or it is too old for cuda-python.
    """

    def __init__(self, device: int, extra: str) -> None:
        self._cuda: Any = require("cuda.bindings.runtime", extra)
        self._thread = threading.current_thread()
        self.device = device
        # Copies so far, by direction; those inside a captured graph count once.
        self.copies = {"to_device": 0, "to_host": 0}
        # What queued copies read, by stream.
        self._sources: dict[int, list[np.ndarray]] = {}
        count = self._count()
        if not 0 <= device < count:
            raise UsageError(f"device is {device}, but this machine has {_count_text(count)}")
        self.use()
        properties = self.call("cudaGetDeviceProperties", device)
        self.name: str = properties.name.decode("utf-8", "replace")
        self.capability: int = properties.major * 10 + properties.minor

    def use(self) -> None:
        """Choose the GPU for the calls that follow; every public call of a runtime begins so.

        Raises:
            RuntimeFailure: the thread is not the one that opened it, or the GPU has failed.
        """
        self.check_thread()
        self.call("cudaSetDevice", self.device)

    def check_thread(self) -> None:
        """Refuse other threads.

        Raises:
            RuntimeFailure: the thread is not the one that opened it.
        """
        if threading.current_thread() is not self._thread:
            raise RuntimeFailure(
                f"the runtime was opened in thread {self._thread.name!r}, but is called from "
                f"{threading.current_thread().name!r}; open one runtime in each thread"
            )

    def call(self, name: str, *arguments: Any, what: str = "") -> Any:
        """Call the library.

        Args:
            name: of the function.
            arguments: of the function.
            what: what is being done, for the error.

        Returns:
            what the function gives beside its status: nothing, one value or a tuple.

        Raises:
            CudaFailure: the status is not success.
        """
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise self._failure(status, name, what)
        return values[0] if len(values) == 1 else tuple(values)

    def forget_error(self) -> None:
        """Take back the last error, so that later calls do not report it as theirs."""
        self._cuda.cudaGetLastError()

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU's memory."""
        free, total = self.call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, num_bytes: int, what: str) -> int:
        """Address of fresh memory on the GPU, aligned to 256 bytes at least.

        Raises:
            CudaFailure: too little is free; the text says how much.
        """
        try:
            return int(self.call("cudaMalloc", num_bytes, what=what))
        except CudaFailure as error:
            if error.code != "cudaErrorMemoryAllocation":
                raise
            self.forget_error()
            free, total = self.memory()
            raise CudaFailure(
                error.code,
                f"{what} needs {num_bytes / _MIB:.1f} MiB of memory on {self.name}, but "
                f"{free / _MIB:.1f} of {total / _MIB:.1f} MiB are free; lower the batch, build "
                "engines with a smaller --max-batch, or end other programs on the GPU",
            ) from error

    def release(self, name: str, resource: Any) -> None:
        """Give something back by the function of that name.

        Never an error: after a failure of the GPU all calls report it, and what could not be
        given back goes with the process.
        """
        getattr(self._cuda, name)(resource)
        self.forget_error()

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array in host memory that copies run from and to without waiting; see ``unpin``."""
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self.call("cudaMallocHost", num_bytes, what="memory for copies"))
        raw = (ctypes.c_uint8 * num_bytes).from_address(address)
        return np.frombuffer(raw, dtype=dtype).reshape(shape)

    def unpin(self, array: np.ndarray) -> None:
        """Give an array of ``pinned`` back; it may not be read afterwards."""
        self.release("cudaFreeHost", array.ctypes.data)

    def to_device(self, address: int, array: np.ndarray, stream: Any) -> None:
        """Queue a copy to the GPU; a pinned array may not change before the stream is done."""
        self.copies["to_device"] += 1
        # Where host and GPU share memory, a copy of any memory may read it after the call.
        self._sources.setdefault(int(stream), []).append(array)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def to_host(self, array: np.ndarray, address: int, stream: Any) -> None:
        """Queue a copy from the GPU; the array holds it once the stream is done."""
        self.copies["to_host"] += 1
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def within(self, target: int, source: int, num_bytes: int, stream: Any) -> None:
        """Queue a copy from one place on the GPU to another."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpyAsync", target, source, num_bytes, kind, stream)

    def fill(self, address: int, byte: int, num_bytes: int, stream: Any) -> None:
        """Queue the filling of memory with one byte."""
        self.call("cudaMemsetAsync", address, byte, num_bytes, stream)

    def new_stream(self) -> Any:
        """A queue of work."""
        return self.call("cudaStreamCreateWithFlags", _NON_BLOCKING)

    def wait(self, stream: Any) -> None:
        """Wait until a stream is done.

        Raises:
            CudaFailure: something in it failed.
        """
        try:
            self.call("cudaStreamSynchronize", stream)
        finally:
            # After a failure nothing reads them either, and the driver may live on.
            self._sources.pop(int(stream), None)

    def is_done(self, stream: Any) -> bool:
        """Whether a stream is done, without waiting.

        Raises:
            CudaFailure: something in it failed.
        """
        (status,) = self._cuda.cudaStreamQuery(stream)
        errors = self._cuda.cudaError_t
        if status not in (errors.cudaSuccess, errors.cudaErrorNotReady):
            raise self._failure(status, "cudaStreamQuery", "")
        return bool(status == errors.cudaSuccess)

    def begin_capture(self, stream: Any) -> None:
        """Record what is queued from here on in place of running it."""
        # Calls of this thread that would wait are refused meanwhile; other threads are let alone.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        """What was recorded, ready to be launched.

        Raises:
            CudaFailure: something in it cannot be recorded; the stream is as before.
        """
        graph = self.call("cudaStreamEndCapture", stream, what="the capture")
        try:
            return self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self.release("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: Any) -> None:
        """Leave a capture that failed, so that the stream runs again."""
        status, graph = self._cuda.cudaStreamEndCapture(stream)
        if status == self._cuda.cudaError_t.cudaSuccess:
            self.release("cudaGraphDestroy", graph)
        self.forget_error()

    def launch(self, graph: Any, stream: Any) -> None:
        """Queue all of a graph."""
        self.call("cudaGraphLaunch", graph, stream)

    def _count(self) -> int:
        errors = self._cuda.cudaError_t
        status, count = self._cuda.cudaGetDeviceCount()
        if status == errors.cudaSuccess:
            return int(count)
        if status == errors.cudaErrorNoDevice:
            return 0
        supported, required = (
            getattr(self._cuda, name)()[1]
            for name in ("cudaDriverGetVersion", "cudaRuntimeGetVersion")
        )
        if status != errors.cudaErrorInsufficientDriver:
            raise self._failure(status, "cudaGetDeviceCount", "")
        if not supported:
            raise CudaFailure(
                status.name,
                "there is no NVIDIA driver on this machine; install it, or choose another runtime "
                "(minit2i doctor lists those that work)",
            )
        raise CudaFailure(
            status.name,
            f"the NVIDIA driver knows CUDA {_version(supported)}, but {_version(required)} is "
            "needed; install a newer driver, or a cuda-bindings of the driver's version",
        )

    def _failure(self, status: Any, function: str, what: str) -> CudaFailure:
        _, message = self._cuda.cudaGetErrorString(status)
        text = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
        doing = f" for {what}" if what else ""
        return CudaFailure(status.name, f"{function} failed{doing}: {text} ({status.name})")


def _count_text(count: int) -> str:
    if not count:
        return "no NVIDIA GPU; choose another runtime"
    return f"{count} NVIDIA GPU{'s' if count > 1 else ''}; count from 0"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
