#!/bin/sh
# OpenVINO 2026.4.1's CPU plugin turns NaN into ordinary numbers in common activations: Relu gives 0,
# Clip and Max give the bound, Exp gives infinity. onnxruntime 1.32.0 keeps NaN in all of them, and so
# does OpenVINO in Sigmoid and Tanh. (Seen on x86-64 with AVX-512.)
# Consequence: a self-test that looks for NaN at a network's output passes a network that overflowed.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$work/venv/bin/python" - <<'P'
import numpy as np
import onnxruntime as ort
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

BOUNDS = [numpy_helper.from_array(np.float32(value), name) for name, value in (("lo", -1), ("hi", 1))]
EXPECTED = {"Relu": 0, "Clip": -1, "Max": -1, "Exp": np.inf, "Sigmoid": np.nan, "Tanh": np.nan}
EXTRA = {"Clip": BOUNDS, "Max": BOUNDS[:1]}
x = np.array([np.nan, 0.5], np.float32)
core = ov.Core()
for name, value in EXPECTED.items():
    extra = EXTRA.get(name, [])
    graph = helper.make_graph(
        [helper.make_node(name, ["x", *(tensor.name for tensor in extra)], ["y"])],
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        extra,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    data = model.SerializeToString()
    reference = ort.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = compiled(x)[0]
    print(f"{name:8} of NaN: openvino {actual[0]}, onnxruntime {reference[0]}")
    assert np.isnan(reference[0]), name
    assert np.array_equal(actual[:1], np.array([value], np.float32), equal_nan=True), name
    assert np.allclose(actual[1], reference[1], atol=1e-5), name
P
