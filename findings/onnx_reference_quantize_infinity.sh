#!/bin/sh
# The reference evaluator of onnx 1.23.2 quantizes plus infinity to the LOWEST int8 or uint8 value:
# it casts to int32 before it saturates. onnxruntime 1.32.0 saturates it to the highest, as the
# operator's text says. Both agree on minus infinity, and both turn NaN into the lowest value.
# Consequence: a test of quantized graphs that uses the reference as its oracle is wrong at overflow.
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

x = np.array([np.inf, -np.inf, np.nan, 1], np.float32)
for kind, zero in ((np.int8, 0), (np.uint8, 128)):
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    tensor = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])],
        "quantize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", tensor, [4])],
        [
            numpy_helper.from_array(np.float32(0.1), "scale"),
            numpy_helper.from_array(kind(zero), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    actual = session.run(None, {"x": x})[0]
    reference = ReferenceEvaluator(model).run(None, {"x": x})[0]
    print(f"{kind.__name__}: inf, -inf, nan, 1 -> onnxruntime {actual}, reference {reference}")
    assert list(actual) == [high, low, low, zero + 10]
    assert list(reference) == [low, low, low, zero + 10]
P
