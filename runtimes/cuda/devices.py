"""The NVIDIA driver and its GPUs, as CUDA's own runtime library tells them, without a package.

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
_LEAST_CAPABILITY: Final = {"bf16": 80, "fp8": 89}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU.

    Args:
        name: the driver's.
        capability: compute capability, for example 90.
    """

    name: str
    capability: int

    def lacks(self, precision: str) -> str | None:
        """Why it has no kernels for graphs of a precision; None if it has."""
        least = _LEAST_CAPABILITY.get(precision, 0)
        if self.capability >= least:
            return None
        return (
            f"which {self.name} (compute capability {_dotted(self.capability)}) does not compute, "
            f"because that takes {_dotted(least)}; export the checkpoint with --precision fp16"
        )


def has_driver() -> bool:
    """Whether NVIDIA's driver is installed."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


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


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"
