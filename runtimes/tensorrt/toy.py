"""A toy engine of ten steps, which shows whether TensorRT or TensorRT-RTX works on this GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from minit2i_deploy.runtimes.cuda.memory import GrowingBuffer
from minit2i_deploy.runtimes.tensorrt.engine import Card
from minit2i_deploy.runtimes.tensorrt.library import RuntimeLibrary
from minit2i_deploy.runtimes.toy_graph import (
    TOY_SIZE,
    TOY_STEPS,
    matmul_model,
    toy_arrays,
    toy_error,
)


def run_toy(name: str) -> float:
    """Run a toy of ten rows, its state in two buffers on the card.

    Args:
        name: of the library, ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        largest difference from numpy, relative to the largest value.

    Raises:
        MissingDependencyError: the library or cuda-python is not installed.
        UsageError: there is no card.
        RuntimeFailure: there is no driver, the library cannot run the toy, or its values are wrong.
    """
    library = RuntimeLibrary.open(name)
    card = Card(library, 0)
    try:
        found = _ten_rows(card, _toy_engine(card))
    finally:
        card.settle()
        card.close()
    return toy_error(name, found)


def _toy_engine(card: Card) -> Any:
    library, trt = card.library, card.library.module
    library.forget_lines()
    builder = trt.Builder(library.logger)
    network = library.create_network(builder)
    parser = trt.OnnxParser(network, library.logger)
    model = matmul_model(TOY_SIZE, TOY_SIZE, TOY_SIZE)
    plan = None
    if parser.parse(model):
        plan = builder.build_serialized_network(network, builder.create_builder_config())
    engine = None if plan is None else card.loader.deserialize_cuda_engine(plan)
    if engine is None:
        raise library.failure(f"{library.name} cannot build a toy engine")
    return engine


def _ten_rows(card: Card, engine: Any) -> np.ndarray:
    context = card.library.new_context(engine, specialise=False)
    start, turn = toy_arrays()
    for name in ("a", "b"):
        context.set_input_shape(name, start.shape)
    num_bytes = int(context.update_device_memory_size_for_shapes())
    scratch = GrowingBuffer(card.memory, "a toy engine")
    scratch.reserve(max(num_bytes, 1))
    context.set_device_memory(scratch.address, scratch.num_bytes)
    now, after, fixed = (card.memory.take(start.nbytes, "a toy") for _ in range(3))
    card.driver.to_device(now, start, card.stream)
    card.driver.to_device(fixed, turn, card.stream)
    for _ in range(TOY_STEPS):
        for name, address in (("a", now), ("b", fixed), ("y", after)):
            context.set_tensor_address(name, address)
        if not context.execute_async_v3(int(card.stream)):
            raise card.library.failure(f"{card.library.name} cannot run a toy engine")
        now, after = after, now
    found = np.empty_like(start)
    card.driver.to_host(found, now, card.stream)
    card.driver.wait(card.stream)
    return found
