"""One matrix product as a model to test an engine with: for its values and for its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.evaluation.relative_error import max_relative_error
from minit2i_deploy.runtimes import onnx_writer

TOY_STEPS, TOY_SIZE = 10, 16
# After ten products: measured 2e-7 in fp32; bf16 has 8 bits.
_TOY_BOUND: Final = 0.05
RATE_SIZE: Final = 2048
_RATE_REPEATS: Final = 8


def matmul_model(rows: int, inner: int, columns: int, weights: np.ndarray | None = None) -> bytes:
    """A model ``y = a @ b`` of fixed shapes, all float32.

    Args:
        rows, inner, columns: a is [rows, inner], b is [inner, columns].
        weights: b, which is then part of the model; None makes it an input.
    """
    inputs = [onnx_writer.value("a", (rows, inner))]
    if weights is None:
        inputs.append(onnx_writer.value("b", (inner, columns)))
    return onnx_writer.model(
        [onnx_writer.node("MatMul", ["a", "b"], "y")],
        inputs,
        [onnx_writer.value("y", (rows, columns))],
        [] if weights is None else [onnx_writer.constant("b", weights)],
    )


def toy_arrays() -> tuple[Float32[np.ndarray, "n n"], Float32[np.ndarray, "n n"]]:
    """A start and a matrix to multiply it with ten times: float32 [TOY_SIZE, TOY_SIZE]."""
    rng = np.random.default_rng(0)
    start = rng.standard_normal((TOY_SIZE, TOY_SIZE), dtype=np.float32)
    # Orthogonal, so that ten products neither grow nor fade.
    turn = np.linalg.qr(rng.standard_normal((TOY_SIZE, TOY_SIZE)))[0]
    return start, np.ascontiguousarray(turn, dtype=np.float32)


def toy_error(engine: str, result: Float32[np.ndarray, "n n"]) -> float:
    """Compare the start times the matrix, ten times over, with numpy in float64.

    Returns:
        largest difference, relative to the largest value.

    Raises:
        RuntimeFailure: it is over what even bf16 explains.
    """
    start, turn = toy_arrays()
    expected = start @ np.linalg.matrix_power(turn.astype(np.float64), TOY_STEPS)
    worst = max_relative_error(result, expected)
    if not worst <= _TOY_BOUND:
        raise RuntimeFailure(f"{engine} is off by {worst:.2g} on a toy graph")
    return worst


def rate_arrays() -> tuple[Float32[np.ndarray, "n n"], Float32[np.ndarray, "n n"]]:
    """Two matrices whose product takes long enough to be timed: float32 [RATE_SIZE, RATE_SIZE]."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((RATE_SIZE, RATE_SIZE), dtype=np.float32) for _ in range(2))
    return a, b


def best_rate(product: Callable[[], object]) -> float:
    """FLOP a second of the fastest of several products of ``rate_arrays``, after a warm-up."""
    product()
    seconds = []
    for _ in range(_RATE_REPEATS):
        began = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - began)
    return 2.0 * RATE_SIZE**3 / min(seconds)
