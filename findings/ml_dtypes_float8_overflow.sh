#!/bin/sh
# Casting a float32 beyond 448 to float8_e4m3fn gives NaN in ml_dtypes 0.6.0, not the largest value and
# not infinity (the format has none). ONNX's Cast and QuantizeLinear saturate to 448 by default, also
# from infinity. Consequence: FP8 weights made with a numpy cast differ from the graph's own wherever a
# scale is a little too small, and one such weight makes a whole output NaN.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install onnxruntime==1.32.0 onnx==1.23.2 ml_dtypes==0.6.0 numpy==2.4.6
"$work/venv/bin/python" - <<'P'
import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

x = np.array([448, 464, 465, 1000, np.inf], np.float32)
cast = x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
graph = helper.make_graph(
    [
        helper.make_node("Cast", ["x"], ["q"], to=TensorProto.FLOAT8E4M3FN),
        helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT),
    ],
    "cast",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
actual = session.run(None, {"x": x})[0]
print("float32:    ", x)
print("ml_dtypes:  ", cast)
print("onnxruntime:", actual)
assert list(cast[:2]) == [448, 448] and np.isnan(cast[2:]).all()
assert (actual == 448).all()
P
