"""The fakes have only what the real libraries have, under the same names and values."""

from __future__ import annotations

import enum
import inspect

import cuda.bindings.runtime as real_cuda
import numpy as np
import pytest
import tensorrt_rtx_bindings as real_trt

from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.runtimes.cuda.driver import CudaDriver
from minit2i_deploy.runtimes.tensorrt.library import RuntimeLibrary
from tests.helpers.fakes import fake_cuda, fake_tensorrt_names
from tests.helpers.fakes.fake_cuda import FakeCuda
from tests.helpers.fakes.fake_tensorrt import (
    ExecutionContext,
    FakeTensorRt,
    RtxContext,
    RtxEngine,
)
from tests.helpers.fakes.fake_tensorrt_configs import JitCache, RuntimeConfig, SerializationConfig

# Helpers of the fakes that the real ones do not have.
OWN = {"stored", "module", "weights", "session", "symbols", "open_session", "logger"}


def enumerations(module: object) -> list[type[enum.Enum]]:
    actual = inspect.getmembers(module, lambda each: inspect.isclass(each))
    return [each for _, each in actual if issubclass(each, enum.Enum) and each.__members__]


@pytest.mark.parametrize("fake", enumerations(fake_cuda), ids=lambda each: each.__name__)
def test_cuda_numbers_are_the_real_ones(fake: type[enum.Enum]) -> None:
    real = getattr(real_cuda, fake.__name__)
    for member in fake:
        assert int(getattr(real, member.name)) == member.value


@pytest.mark.parametrize("fake", enumerations(fake_tensorrt_names), ids=lambda each: each.__name__)
def test_tensorrt_numbers_are_the_real_ones(fake: type[enum.Enum]) -> None:
    real = getattr(real_trt, fake.__name__)
    for member in fake:
        assert int(getattr(real, member.name)) == member.value, member


def test_cuda_calls_are_the_real_ones() -> None:
    calls = [name for name in dir(FakeCuda) if name.startswith("cuda") and name[4].isupper()]
    assert len(calls) > 20
    for name in calls:
        real = getattr(real_cuda, name)
        if inspect.isclass(real) or not callable(real) or name.endswith(("Kind", "Mode")):
            continue
        # The real ones are compiled; the first line of their help is their signature.
        line = (real.__doc__ or "").partition("\n")[0]
        expected = line.partition("(")[2].rpartition(")")[0]
        num_real = len([part for part in expected.split(",") if part.strip()])
        num_fake = len(inspect.signature(getattr(FakeCuda, name)).parameters) - 1
        assert num_fake == num_real, (name, line)


@pytest.mark.parametrize(
    ("fakes", "real"),
    [
        ([ExecutionContext, RtxContext], real_trt.IExecutionContext),
        ([RtxEngine], real_trt.ICudaEngine),
        ([RuntimeConfig], real_trt.IRuntimeConfig),
        ([JitCache], real_trt.IRuntimeCache),
        ([SerializationConfig], real_trt.ISerializationConfig),
        ([FakeTensorRt(FakeCuda(), rtx=True).Runtime], real_trt.Runtime),
        ([FakeTensorRt(FakeCuda(), rtx=True).Refitter], real_trt.Refitter),
    ],
)
def test_tensorrt_methods_are_the_real_ones(fakes: list[type], real: type) -> None:
    for fake in fakes:
        names = {name for name in dir(fake) if not name.startswith("_")} - OWN
        assert names and names <= set(dir(real)), names - set(dir(real))


def test_the_real_library_takes_our_logger_and_says_why_a_plan_is_none() -> None:
    library = RuntimeLibrary.open("tensorrt_rtx")
    assert library.version == real_trt.__version__
    loader = real_trt.Runtime(library.logger)
    assert loader.deserialize_cuda_engine(b"no plan at all" * 16) is None
    assert "magic" in str(library.failure("x").args[0]).lower()
    assert library.why_invalid(loader, b"no plan at all" * 16) is not None


def test_the_real_library_takes_weights_by_address() -> None:
    values = np.arange(6, dtype=np.float32)
    weights = real_trt.Weights(real_trt.DataType.FLOAT, values.ctypes.data, values.size)
    assert np.array_equal(weights.numpy(), values)


def test_real_cuda_python_without_a_card_gives_one_line() -> None:
    status, count = real_cuda.cudaGetDeviceCount()
    if status == real_cuda.cudaError_t.cudaSuccess and count:
        assert CudaDriver(0, "rtx").capability >= 50
        return
    with pytest.raises((RuntimeFailure, ValueError), match=r"NVIDIA (driver|GPU)") as caught:
        CudaDriver(0, "rtx")
    assert "\n" not in str(caught.value)
