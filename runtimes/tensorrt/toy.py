"""A toy engine of ten steps, which shows whether TensorRT or TensorRT-RTX works on this GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from minit2i_deploy.runtimes.cuda.memory import GrowingBuffer
from minit2i_deploy.runtimes.tensorrt.engine import Gpu
from minit2i_deploy.runtimes.tensorrt.library import RuntimeLibrary
from minit2i_deploy.runtimes.toy_graph import (
    TOY_SIZE,
    TOY_STEPS,
    matmul_model,
    toy_arrays,
    toy_error,
)


def run_toy(name: str) -> float:
    """Multiply a state with a matrix ten times, the state in two buffers on the GPU.

    Args:
        name: of the library, ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        largest difference from numpy, relative to the largest value.

    Raises:
        MissingDependencyError: the library or cuda-python is not installed.
        UsageError: there is no GPU.
        RuntimeFailure: there is no driver, the library cannot run the toy, or its values are wrong.
    """
    library = RuntimeLibrary.open(name)
    gpu = Gpu(library, 0)
    try:
        result = _ten_steps(gpu, _toy_engine(gpu))
    finally:
        gpu.settle()
        gpu.close()
    return toy_error(name, result)


def _toy_engine(gpu: Gpu) -> Any:
    library, trt = gpu.library, gpu.library.module
    library.forget_lines()
    builder = trt.Builder(library.logger)
    network = library.create_network(builder)
    parser = trt.OnnxParser(network, library.logger)
    model = matmul_model(TOY_SIZE, TOY_SIZE, TOY_SIZE)
    plan = None
    if parser.parse(model):
        plan = builder.build_serialized_network(network, builder.create_builder_config())
    engine = None if plan is None else gpu.loader.deserialize_cuda_engine(plan)
    if engine is None:
        raise library.failure(f"{library.name} cannot build a toy engine")
    return engine


def _ten_steps(gpu: Gpu, engine: Any) -> np.ndarray:
    context = gpu.library.new_context(engine, specialize=False)
    start, turn = toy_arrays()
    for name in ("a", "b"):
        context.set_input_shape(name, start.shape)
    num_bytes = int(context.update_device_memory_size_for_shapes())
    scratch = GrowingBuffer(gpu.memory, "a toy engine")
    scratch.reserve(max(num_bytes, 1))
    context.set_device_memory(scratch.address, scratch.num_bytes)
    now, after, fixed = (gpu.memory.take(start.nbytes, "a toy") for _ in range(3))
    gpu.driver.to_device(now, start, gpu.stream)
    gpu.driver.to_device(fixed, turn, gpu.stream)
    for _ in range(TOY_STEPS):
        for name, address in (("a", now), ("b", fixed), ("y", after)):
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(int(gpu.stream)):
            raise gpu.library.failure(f"{gpu.library.name} cannot run a toy engine")
        now, after = after, now
    result = np.empty_like(start)
    gpu.driver.to_host(result, now, gpu.stream)
    gpu.driver.wait(gpu.stream)
    return result
