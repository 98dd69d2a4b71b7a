"""WebAssembly's integer kernels against Python's: the same values to the last bit."""

from __future__ import annotations

import base64

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.helpers.web_client import case, floats, values

pytestmark = pytest.mark.web

TOKENS, WIDTH, OUTPUTS = 64, 128, 96
SCALE = np.float32(1.25 * 2**-6)
# The largest difference measured is 1.8e-7; what matters to the reader is that there is one.
MAX_FLOAT_ERROR = 1e-6


def states() -> np.ndarray:
    """float32 [TOKENS, WIDTH]: the first rows lie halfway between two steps of 8 bits."""
    x = np.random.default_rng(0).standard_normal((TOKENS, WIDTH)).astype(np.float32)
    halves = (np.arange(-WIDTH, WIDTH) + np.float32(0.5)).reshape(2, WIDTH)
    x[:2] = halves * SCALE
    return x


def graph(*nodes: onnx.NodeProto) -> bytes:
    """A graph x -> y; nodes may read scale, zero, weights, weight_scale, weight_zero and axis."""
    random = np.random.default_rng(1)
    constants = {
        "scale": SCALE,
        "zero": np.int8(0),
        "weights": random.integers(-60, 61, (WIDTH, OUTPUTS)).astype(np.int8),
        "weight_scale": random.uniform(2**-9, 2**-8, OUTPUTS).astype(np.float32),
        "weight_zero": np.zeros(OUTPUTS, np.int8),
        "axis": np.array([-1]),
    }
    used = {name for node in nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            list(nodes),
            "operators",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [TOKENS, WIDTH])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [
                numpy_helper.from_array(np.asarray(value), name)
                for name, value in constants.items()
                if name in used
            ],
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    return bytes(model.SerializeToString())


def quantized(source: str, target: str) -> list[onnx.NodeProto]:
    """A value rounded to 8 bits, and back."""
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{target}_8"]),
        helper.make_node("DequantizeLinear", [f"{target}_8", "scale", "zero"], [target]),
    ]


def layer(source: str, target: str) -> list[onnx.NodeProto]:
    """A linear layer with INT8 weights, which both runtimes fuse to a product of integers."""
    weights = ["weights", "weight_scale", "weight_zero"]
    return [
        helper.make_node("DequantizeLinear", weights, ["w"], axis=1),
        helper.make_node("MatMul", [source, "w"], [target]),
    ]


def both(model: bytes) -> tuple[np.ndarray, np.ndarray]:
    """What Python and WebAssembly give."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": states()})[0]
    texts = [base64.b64encode(data).decode() for data in (model, states().tobytes())]
    question = case("operators", *texts, [TOKENS, WIDTH])
    (answer,) = values("onnxruntime-web", [question])
    return expected, floats(answer).reshape(expected.shape)


@pytest.mark.parametrize("form", ["rounding", "int8", "int8-cpu"])
def test_integer_kernels_are_exact(form: str) -> None:
    """So states of INT8 bundles differ by the float32 sums before the rounding alone."""
    nodes = {
        "rounding": quantized("x", "y"),
        "int8": [*quantized("x", "x8"), *layer("x8", "y")],
        "int8-cpu": [
            helper.make_node("Abs", ["x"], ["magnitude"]),
            helper.make_node("ReduceMax", ["magnitude", "axis"], ["range"], keepdims=1),
            helper.make_node("Div", ["x", "range"], ["share"]),
            *quantized("share", "share8"),
            *layer("share8", "product"),
            helper.make_node("Mul", ["product", "range"], ["y"]),
        ],
    }[form]
    expected, actual = both(graph(*nodes))
    assert np.array_equal(actual, expected)


def test_float_kernels_are_not() -> None:
    expected, actual = both(graph(helper.make_node("Softmax", ["x"], ["y"])))
    difference = np.abs(actual - expected).max()
    assert 0 < difference <= MAX_FLOAT_ERROR
