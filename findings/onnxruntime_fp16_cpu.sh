#!/bin/sh
# onnxruntime 1.32.0's CPU provider runs a float16 graph in float32 and rounds only at its ends, so a
# value beyond float16's 65504 in the middle passes. The onnx reference evaluator gives NaN there, as a
# GPU gives infinity or NaN. Switching all graph optimizations off changes nothing.
# Consequence: a float16 model that overflows looks correct on the CPU.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'P'
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

up = (np.eye(4) * 300).astype(np.float16)
down = (np.eye(4) / 300).astype(np.float16)
graph = helper.make_graph(
    [
        helper.make_node("MatMul", ["x", "up"], ["large"]),  # 300 * 300 = 90000
        helper.make_node("MatMul", ["large", "down"], ["y"]),
    ],
    "overflow",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 4])],
    [numpy_helper.from_array(up, "up"), numpy_helper.from_array(down, "down")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
x = np.full((1, 4), 300, np.float16)
expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
print("onnx reference:", expected)
assert not np.isfinite(expected).any()
for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    actual = session.run(None, {"x": x})[0]
    print(level.name, actual)
    assert (actual == 300).all()
P
