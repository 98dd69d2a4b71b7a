"""A stand-in for cuda.bindings.runtime: numpy behind integer addresses, streams that run late.

What is queued runs when somebody waits, in the order in which it was queued, so a host array that
is read too early still holds its old values. A captured graph holds addresses, as real ones do.
"""

from __future__ import annotations

import ctypes
import enum
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Op = Callable[[], None]
_FIRST_ADDRESS = 0x7F0000000000
_GAP = 4096


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


OK = cudaError_t.cudaSuccess


class Fault(Exception):
    """Something that ran on the GPU went wrong."""


@dataclass(eq=False)
class Stream:
    """What is queued, and what is being captured."""

    number: int
    device: int
    queue: list[Op] = field(default_factory=list)
    capture: list[Op] | None = None
    broken: bool = False

    def __int__(self) -> int:
        return self.number


@dataclass(eq=False)
class Graph:
    """Recorded work."""

    ops: list[Op]
    device: int
    alive: bool = True


@dataclass
class Properties:
    """Of one GPU."""

    name: bytes
    major: int
    minor: int


class FakeCuda(types.ModuleType):
    """The parts of the library that the runtime uses, and switches that make it fail.

    Args:
        gpus: name and compute capability of each.
        memory: bytes of each GPU.
        driver: CUDA version of the driver, 0 for none.
    """

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode

    def __init__(
        self,
        gpus: tuple[tuple[str, int], ...] = (("Fake RTX 4090", 89),),
        memory: int = 1 << 30,
        driver: int = 13050,
    ) -> None:
        super().__init__("cuda.bindings.runtime")
        self.gpus, self.total, self.driver = gpus, memory, driver
        self._current = threading.local()
        self.blocks: dict[int, tuple[int, np.ndarray]] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self._graveyard: list[np.ndarray] = []
        self.streams: dict[int, Stream] = {}
        self.execs: list[Graph] = []
        self._next = _FIRST_ADDRESS
        self.dead: cudaError_t | None = None
        self.copies: list[tuple[str, int]] = []
        self.launches = 0
        self.kernels = 0
        # Switches.
        self.fault_at_kernel: int | None = None
        self.refuse: dict[str, cudaError_t] = {}
        self.at_launch: Callable[[list[Op]], list[Op]] = lambda ops: ops
        self.ops_a_look = 7

    # What tests and the fake engine ask.

    def live(self) -> dict[str, int]:
        """What was not given back."""
        counts = {"blocks": self.blocks, "pinned": self.pinned, "streams": self.streams}
        counts_by_kind = {name: len(things) for name, things in counts.items()}
        return {**counts_by_kind, "graphs": sum(graph.alive for graph in self.execs)}

    def view(self, address: int, num_bytes: int) -> np.ndarray:
        """Bytes on the GPU; a fault where they are not one piece's."""
        for base, (_, block) in self.blocks.items():
            if base <= address and address + num_bytes <= base + block.size:
                return block[address - base : address - base + num_bytes]
        raise Fault(f"{num_bytes} bytes at {address:#x} are nobody's")

    def enqueue(self, handle: int, op: Op) -> bool:
        """Queue work of an engine; False where the stream is not there."""
        stream = self.streams.get(int(handle))
        if stream is None or stream.device != self._device():
            return False
        self._put(stream, op)
        return True

    def is_capturing(self, handle: int) -> bool:
        """Whether a stream records."""
        return self.streams[int(handle)].capture is not None

    def kernel(self) -> None:
        """Count a kernel, and fail where a test wants it."""
        if self.kernels == self.fault_at_kernel:
            raise Fault("a test wants it")
        self.kernels += 1

    def count(self, kind: str) -> int:
        """Copies of one kind: to, from or within."""
        return sum(name == kind for name, _ in self.copies)

    # The library.

    def cudaDriverGetVersion(self) -> tuple[cudaError_t, int]:
        return OK, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[cudaError_t, int]:
        return OK, 13050

    def cudaGetDeviceCount(self) -> tuple[cudaError_t, int | None]:
        if self.driver < 13000:
            return cudaError_t.cudaErrorInsufficientDriver, None
        if not self.gpus:
            return cudaError_t.cudaErrorNoDevice, None
        return OK, len(self.gpus)

    def cudaSetDevice(self, device: int) -> tuple[cudaError_t]:
        if self.dead:
            return (self.dead,)
        if not 0 <= device < len(self.gpus):
            return (cudaError_t.cudaErrorInvalidDevice,)
        self._current.device = device
        return (OK,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[cudaError_t, Properties]:
        name, capability = self.gpus[device]
        return OK, Properties(name.encode(), capability // 10, capability % 10)

    def cudaMemGetInfo(self) -> tuple[cudaError_t, int, int]:
        return OK, self.total - self._used(), self.total

    def cudaGetErrorString(self, status: cudaError_t) -> tuple[cudaError_t, bytes]:
        return OK, cudaError_t(status).name.removeprefix("cudaError").lower().encode()

    def cudaGetLastError(self) -> tuple[cudaError_t]:
        return (self.dead or OK,)

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int | None]:
        if bad := self._unsafe("cudaMalloc"):
            return bad, None
        if size <= 0 or self._used() + size > self.total:
            return cudaError_t.cudaErrorMemoryAllocation, None
        address = self._next
        # Nothing on a GPU is zero unless somebody wrote it.
        self.blocks[address] = (self._device(), np.full(size, 0xCD, np.uint8))
        self._next += -(-size // 256) * 256 + _GAP
        return OK, address

    def cudaFree(self, address: int) -> tuple[cudaError_t]:
        if bad := self._unsafe("cudaFree"):
            return (bad,)
        if self.blocks.pop(int(address), None) is None:
            return (cudaError_t.cudaErrorInvalidValue,)
        return (OK,)

    def cudaMallocHost(self, size: int) -> tuple[cudaError_t, int | None]:
        if bad := self._unsafe("cudaMallocHost"):
            return bad, None
        array = np.full(size, 0xCD, np.uint8)
        self.pinned[array.ctypes.data] = array
        return OK, array.ctypes.data

    def cudaFreeHost(self, address: int) -> tuple[cudaError_t]:
        array = self.pinned.pop(int(address), None)
        if array is None:
            return (cudaError_t.cudaErrorInvalidValue,)
        # Kept, so that a late reader meets nonsense and not another object's memory.
        array[:] = 0xFF
        self._graveyard.append(array)
        return (OK,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, Stream | None]:
        if bad := self._unsafe("cudaStreamCreateWithFlags"):
            return bad, None
        stream = Stream(1000 + len(self.streams), self._device())
        self.streams[stream.number] = stream
        return OK, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[cudaError_t]:
        known = self.streams.pop(stream.number, None)
        return (OK if known else cudaError_t.cudaErrorInvalidResourceHandle,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[cudaError_t]:
        if bad := self._unsafe("cudaStreamSynchronize") or self._foreign(stream):
            return (bad,)
        return (self._drain(stream, None),)

    def cudaStreamQuery(self, stream: Stream) -> tuple[cudaError_t]:
        if bad := self._unsafe("cudaStreamQuery") or self._foreign(stream):
            return (bad,)
        status = self._drain(stream, self.ops_a_look)
        return (status or (cudaError_t.cudaErrorNotReady if stream.queue else OK),)

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: cudaMemcpyKind, stream: Stream
    ) -> tuple[cudaError_t]:
        if bad := self.refuse.get("cudaMemcpyAsync") or self.dead or self._foreign(stream):
            return (bad,)
        if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
            return (self._to_device(int(target), int(source), size, stream),)
        if kind == cudaMemcpyKind.cudaMemcpyDeviceToHost:
            return (self._to_host(int(target), int(source), size, stream),)
        self._put(stream, lambda: self._copy("within", target, self.view(source, size)))
        return (OK,)

    def cudaMemsetAsync(
        self, address: int, value: int, size: int, stream: Stream
    ) -> tuple[cudaError_t]:
        if bad := self.dead or self._foreign(stream):
            return (bad,)

        def fill() -> None:
            self.view(address, size)[:] = value

        self._put(stream, fill)
        return (OK,)

    def cudaStreamBeginCapture(
        self, stream: Stream, mode: cudaStreamCaptureMode
    ) -> tuple[cudaError_t]:
        if bad := self._unsafe("cudaStreamBeginCapture") or self._foreign(stream):
            return (bad,)
        stream.capture, stream.broken = [], False
        return (OK,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[cudaError_t, Graph | None]:
        ops, broken, stream.capture = stream.capture, stream.broken, None
        if self.refuse.get("cudaStreamEndCapture"):
            return self.refuse["cudaStreamEndCapture"], None
        if ops is None or broken:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        return OK, Graph(ops, stream.device)

    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> tuple[cudaError_t, Graph | None]:
        if bad := self._unsafe("cudaGraphInstantiate"):
            return bad, None
        self.execs.append(Graph(list(graph.ops), graph.device))
        return OK, self.execs[-1]

    def cudaGraphDestroy(self, graph: Graph) -> tuple[cudaError_t]:
        graph.alive = False
        return (OK,)

    def cudaGraphExecDestroy(self, graph: Graph) -> tuple[cudaError_t]:
        status = OK if graph.alive else cudaError_t.cudaErrorInvalidValue
        graph.alive = False
        return (status,)

    def cudaGraphLaunch(self, graph: Graph, stream: Stream) -> tuple[cudaError_t]:
        if bad := self.dead or self._foreign(stream):
            return (bad,)
        if not graph.alive or graph.device != stream.device:
            return (cudaError_t.cudaErrorInvalidValue,)
        self.launches += 1
        for op in self.at_launch(graph.ops):
            self._put(stream, op)
        return (OK,)

    # Inside.

    def _device(self) -> int:
        return getattr(self._current, "device", 0)

    def _used(self) -> int:
        return sum(b.size for device, b in self.blocks.values() if device == self._device())

    def _foreign(self, stream: Stream) -> cudaError_t | None:
        known = self.streams.get(stream.number) is stream and stream.device == self._device()
        return None if known else cudaError_t.cudaErrorInvalidResourceHandle

    def _unsafe(self, name: str) -> cudaError_t | None:
        """Calls that would wait, or take memory, break a capture that is under way."""
        for stream in self.streams.values():
            if stream.capture is not None:
                stream.broken = True
                return cudaError_t.cudaErrorStreamCaptureUnsupported
        return self.dead or self.refuse.get(name)

    def _put(self, stream: Stream, op: Op) -> None:
        (stream.queue if stream.capture is None else stream.capture).append(op)

    def _drain(self, stream: Stream, most: int | None) -> cudaError_t:
        while stream.queue and most != 0:
            most = None if most is None else most - 1
            try:
                stream.queue.pop(0)()
            except Fault:
                stream.queue.clear()
                self.dead = cudaError_t.cudaErrorIllegalAddress
        return self.dead or OK

    def _to_device(self, target: int, source: int, size: int, stream: Stream) -> cudaError_t:
        host = self._pinned(source, size)
        if host is None:
            if stream.capture is not None:
                stream.broken = True
                return cudaError_t.cudaErrorStreamCaptureUnsupported
            # Pageable memory is read at once; only pinned memory is read when its turn comes.
            host = np.frombuffer(ctypes.string_at(source, size), np.uint8)
        self._put(stream, lambda: self._copy("to", target, host))
        return OK

    def _to_host(self, target: int, source: int, size: int, stream: Stream) -> cudaError_t:
        host = self._pinned(target, size)
        if host is not None:
            self._put(stream, lambda: self._copy("from", host, self.view(source, size)))
            return OK
        if stream.capture is not None:
            stream.broken = True
            return cudaError_t.cudaErrorStreamCaptureUnsupported
        raw = np.frombuffer((ctypes.c_uint8 * size).from_address(target), np.uint8)
        self._put(stream, lambda: self._copy("from", raw, self.view(source, size)))
        return self._drain(stream, None)

    def _copy(self, kind: str, target: int | np.ndarray, values: np.ndarray) -> None:
        place = target if isinstance(target, np.ndarray) else self.view(int(target), values.size)
        place[:] = values
        self.copies.append((kind, values.size))

    def _pinned(self, address: int, size: int) -> np.ndarray | None:
        for base, array in self.pinned.items():
            if base <= address and address + size <= base + array.size:
                return array[address - base : address - base + size]
        return None


__all__ = ["FakeCuda", "Fault", "Graph", "Stream", "cudaError_t"]
