"""Layers with quantized weights alone are computed in float32, as their graph says."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.runtimes.onnxruntime.session import open_session

INPUTS, OUTPUTS, BLOCK = 256, 64, 32


def _model(values: np.ndarray, scales: np.ndarray, **axis: int) -> bytes:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], **axis),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", INPUTS), ("y", OUTPUTS))
    ]
    weights = [numpy_helper.from_array(values, "q"), numpy_helper.from_array(scales, "s")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 21)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("bits", [4, 8])
def test_inputs_are_not_rounded(bits: int) -> None:
    rng = np.random.default_rng(bits)
    if bits == 4:
        values = rng.integers(-8, 8, (INPUTS, OUTPUTS)).astype(np.int8)
        scales = rng.uniform(0.005, 0.015, (INPUTS // BLOCK, OUTPUTS)).astype(np.float32)
        model = _model(values.astype(ml_dtypes.int4), scales, axis=0, block_size=BLOCK)
        weights = values * np.repeat(scales.astype(np.float64), BLOCK, axis=0)
    else:
        values = rng.integers(-127, 128, (INPUTS, OUTPUTS)).astype(np.int8)
        scales = rng.uniform(0.005, 0.015, OUTPUTS).astype(np.float32)
        model = _model(values, scales, axis=1)
        weights = values * scales.astype(np.float64)
    x = rng.standard_normal((4, INPUTS)).astype(np.float32)
    session = open_session(onnxruntime, model, PROVIDERS["cpu"], threads=1)
    actual, expected = session.run(None, {"x": x})[0], x.astype(np.float64) @ weights
    # Measured 3.0e-7; 6.0e-3 with the library's default, which rounds the inputs to 8 bits.
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
