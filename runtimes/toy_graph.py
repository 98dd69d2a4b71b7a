"""One matrix product as an ONNX model, to test an engine with, made without the onnx package.

Source: onnx.proto of the ONNX project, for the field numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.evaluation.relative_error import max_relative_error

TOY_STEPS, TOY_SIZE = 10, 16
# After ten products: measured 2e-7 in fp32; bf16 has 8 bits.
_TOY_BOUND: Final = 0.05
RATE_SIZE: Final = 2048
_RATE_REPEATS: Final = 8

_FLOAT: Final = 1
# Old enough for every engine, and MatMul has not changed since.
_IR_VERSION, _OPSET = 8, 18


def matmul_model(rows: int, inner: int, columns: int, weights: bytes | None = None) -> bytes:
    """A model ``y = a @ b`` of fixed shapes, all float32.

    Args:
        rows, inner, columns: a is [rows, inner], b is [inner, columns].
        weights: little-endian bytes of b, which is then part of the model; None makes it an input.
    """
    node = _text(1, "a") + _text(1, "b") + _text(2, "y") + _text(4, "MatMul")
    graph = _bytes(1, node) + _text(2, "toy") + _bytes(11, _value("a", (rows, inner)))
    if weights is None:
        graph += _bytes(11, _value("b", (inner, columns)))
    else:
        sizes = _number(1, inner) + _number(1, columns) + _number(2, _FLOAT)
        graph += _bytes(5, sizes + _text(8, "b") + _bytes(9, weights))
    graph += _bytes(12, _value("y", (rows, columns)))
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _number(2, _OPSET))


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


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size)) for size in shape)
    tensor = _number(1, _FLOAT) + _bytes(2, dims)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
