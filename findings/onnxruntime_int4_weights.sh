#!/bin/sh
# A weight-only INT4 product (blocked DequantizeLinear, then MatMul, all activations float32) is not
# computed on float32 activations by onnxruntime 1.32.0: it becomes MatMulNBits with accuracy_level 4,
# which rounds the activations to 8 bits. The error is thousands of times that of the float32 product.
# session.qdq_matmulnbits_accuracy_level=1 gives what the graph says.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install onnxruntime==1.32.0 onnx==1.23.2 ml_dtypes==0.6.0 numpy==2.4.6
"$work/venv/bin/python" - "$work/optimized.onnx" <<'P'
import sys

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
weights = rng.integers(-8, 8, (256, 64)).astype(np.int8)
scales = (rng.random((8, 64)) * 0.01 + 0.005).astype(np.float32)
graph = helper.make_graph(
    [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ],
    "weights",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 256])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])],
    [numpy_helper.from_array(weights.astype(ml_dtypes.int4), "q"), numpy_helper.from_array(scales, "s")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
x = rng.standard_normal((4, 256)).astype(np.float32)
expected = x.astype(np.float64) @ (weights * np.repeat(scales, 32, 0).astype(np.float64))
errors = {}
for level in (None, "1"):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = sys.argv[1]
    if level:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", level)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    actual = session.run(None, {"x": x})[0]
    errors[level] = float(np.abs(actual - expected).max() / np.abs(expected).max())
    nodes = [node.op_type for node in onnx.load(sys.argv[1]).graph.node]
    print(f"accuracy level {level or 'default'}: {nodes}, relative error {errors[level]:.1e}")
    assert nodes == ["MatMulNBits"]
assert errors[None] > 1e-3 and errors["1"] < 1e-5
P
