"""The GPU that TensorRT builds on, from the CUDA driver."""

from __future__ import annotations

from typing import Any, Final

from minit2i_deploy.engines.fit import Device
from minit2i_deploy.errors import MissingDependencyError, RuntimeFailure, UsageError, require

_WITHOUT_GPU: Final = (
    "TensorRT builds on the GPU that will run the engine, TensorRT-RTX without one:"
    " --engine tensorrt-rtx --target sm89"
)


def use_device(index: int = 0) -> Device:
    """Compute capability and name of a GPU, which this thread builds on from now on.

    Args:
        index: the driver's number of the GPU.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        RuntimeFailure: there is no driver, or it is too old.
        UsageError: there is no GPU of that number.
    """
    driver = _driver()
    try:
        _result(driver, driver.cuInit(0))
    except RuntimeError as error:  # cuda-bindings where no driver is installed
        reason = str(error).splitlines()[0]
        raise RuntimeFailure(f"no NVIDIA driver is installed ({reason}); {_WITHOUT_GPU}") from error
    count = _result(driver, driver.cuDeviceGetCount())
    if not 0 <= index < count:
        raise UsageError(f"there is no GPU {index}; the driver has {count}, numbered from 0")
    device = _result(driver, driver.cuDeviceGet(index))
    name = _result(driver, driver.cuDeviceGetName(80, device))
    attributes = driver.CUdevice_attribute
    major, minor = (
        _result(driver, driver.cuDeviceGetAttribute(attribute, device))
        for attribute in (
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
        )
    )
    context = _result(driver, driver.cuDevicePrimaryCtxRetain(device))
    _result(driver, driver.cuCtxSetCurrent(context))
    return Device(capability=10 * major + minor, name=name.split(b"\0")[0].decode("utf-8"))


def _driver() -> Any:
    try:
        return require("cuda.bindings.driver", "tensorrt")
    except MissingDependencyError:
        raise
    except (ImportError, OSError) as error:
        raise RuntimeFailure(f"cuda-bindings does not load: {error}") from error


def _result(driver: Any, answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeFailure(f"no CUDA device answers ({status.name}); {_WITHOUT_GPU}")
    return values[0] if values else None
