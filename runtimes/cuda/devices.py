"""The NVIDIA driver and its GPUs, as CUDA's own libraries tell them, without a package.

Engines report a missing driver or GPU in their own words, or not at all. These checks come before
them, and their errors name the remedy.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy.errors import RuntimeFailure, UsageError

# Of cuda_runtime_api.h: cudaErrorNoDevice, cudaDevAttrComputeCapabilityMajor and Minor.
_NO_DEVICE: Final = 100
_MAJOR, _MINOR = 75, 76
# cudaDeviceProp begins with the name; it has about a thousand bytes.
_NAME_BYTES, _PROPERTIES_BYTES = 256, 4096
# First compute capability with kernels of a precision.
_LEAST_CAPABILITY: Final = {"bf16": 80, "fp8": 89, "mxfp8": 100, "fp4": 100}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU.

    Args:
        name: the driver's.
        capability: compute capability, for example 90.
        memory_bytes: of the GPU; None where it was not asked for.
    """

    name: str
    capability: int
    memory_bytes: int | None = None

    def lacks(self, precision: str) -> str | None:
        """Why it has no kernels for graphs of a precision; None if it has."""
        least = _LEAST_CAPABILITY.get(precision, 0)
        if self.capability >= least:
            return None
        return (
            f"which {self.name} (compute capability {dotted(self.capability)}) does not compute, "
            f"because that takes {dotted(least)}; export the checkpoint with --precision fp16"
        )


def has_driver() -> bool:
    """Whether NVIDIA's driver is installed."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def driver_gpus() -> list[Gpu]:
    """All GPUs, as the driver tells them without CUDA's runtime library; none without a driver.

    Raises:
        RuntimeFailure: the driver is there and does not start.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        return []
    count = ctypes.c_int()
    _check_driver("cuInit", status)
    _check_driver("cuDeviceGetCount", driver.cuDeviceGetCount(ctypes.byref(count)))
    return [_driver_gpu(driver, index) for index in range(count.value)]


def _driver_gpu(driver: Any, index: int) -> Gpu:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    numbers = {which: ctypes.c_int() for which in (_MAJOR, _MINOR)}
    _check_driver("cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), index))
    _check_driver("cuDeviceGetName", driver.cuDeviceGetName(name, _NAME_BYTES, device))
    for which, value in numbers.items():
        status = driver.cuDeviceGetAttribute(ctypes.byref(value), which, device)
        _check_driver("cuDeviceGetAttribute", status)
    _check_driver("cuDeviceTotalMem", driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        capability=numbers[_MAJOR].value * 10 + numbers[_MINOR].value,
        memory_bytes=memory.value,
    )


def _check_driver(call: str, status: int) -> None:
    if status:
        raise RuntimeFailure(
            f"the NVIDIA driver does not start ({call} gives {status}); check nvidia-smi"
        )


def find_gpu(library: str, device: int) -> Gpu:
    """The GPU of an index.

    Args:
        library: name of CUDA's runtime library, for example "libcudart.so.13".
        device: counted from 0.

    Raises:
        UsageError: there is no GPU of that index.
        RuntimeFailure: there is no driver, or it is too old for the library.
    """
    cuda = ctypes.CDLL(library)
    count = _count(cuda)
    if not 0 <= device < count:
        gpus = "1 NVIDIA GPU" if count == 1 else f"{count} NVIDIA GPUs"
        raise UsageError(f"device is {device}, but this machine has {gpus}; count from 0")
    properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    _check(cuda, cuda.cudaGetDeviceProperties(properties, device))
    name = properties.raw[:_NAME_BYTES].partition(b"\0")[0].decode("utf-8", "replace")
    major, minor = (_attribute(cuda, which, device) for which in (_MAJOR, _MINOR))
    return Gpu(name=name, capability=major * 10 + minor)


def _count(cuda: Any) -> int:
    count, driver, needed = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    status = cuda.cudaGetDeviceCount(ctypes.byref(count))
    if status == 0:
        return count.value
    cuda.cudaDriverGetVersion(ctypes.byref(driver))
    cuda.cudaRuntimeGetVersion(ctypes.byref(needed))
    reason = _text(cuda, status)
    if status == _NO_DEVICE:
        raise RuntimeFailure(f"there is no NVIDIA GPU on this machine ({reason})")
    if not driver.value:
        raise RuntimeFailure(
            f"there is no NVIDIA driver on this machine ({reason}); install it, or choose another "
            "engine (minit2i doctor lists those that work)"
        )
    if driver.value // 1000 < needed.value // 1000:
        raise RuntimeFailure(
            f"the NVIDIA driver runs CUDA {_version(driver.value)}, but the installed libraries "
            f"need {_version(needed.value)} ({reason}); install a newer driver"
        )
    raise RuntimeFailure(f"CUDA does not start: {reason}; check nvidia-smi")


def _attribute(cuda: Any, which: int, device: int) -> int:
    value = ctypes.c_int()
    _check(cuda, cuda.cudaDeviceGetAttribute(ctypes.byref(value), which, device))
    return value.value


def _check(cuda: Any, status: int) -> None:
    if status:
        raise RuntimeFailure(f"CUDA fails: {_text(cuda, status)}; check nvidia-smi")


def _text(cuda: Any, status: int) -> str:
    function = cuda.cudaGetErrorString
    function.restype = ctypes.c_char_p
    return str(function(status).decode("utf-8", "replace"))


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def dotted(capability: int) -> str:
    """Compute capability 90 as 9.0."""
    return f"{capability // 10}.{capability % 10}"
