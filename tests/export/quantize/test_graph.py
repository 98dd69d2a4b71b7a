"""Quantized graphs against the same arithmetic in numpy, and against their source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.export.quantize import (
    Graph,
    GraphScheme,
    QuantizableGraph,
    Session,
    find_scheme,
    match_any,
    match_layers,
    quantize_graph,
    read_graph,
    smooth_and_scale,
    write_graph,
)
from minit2i_deploy.export.quantize.formats import FP8, INT4, INT8, Format
from minit2i_deploy.export.quantize.graph.model_graph import widen
from minit2i_deploy.export.quantize.schemes import SCHEMES
from tests.helpers.quantize_runs import estimates, l2_error, ranges, states, step, step_graph

ROWS, INPUTS, OUTPUTS = 40, 64, 48


def one_layer(opset: int = 23) -> Graph:
    """y = x W + b."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((INPUTS, OUTPUTS)).astype(np.float32)
    bias = numpy_helper.from_array(rng.standard_normal(OUTPUTS).astype(np.float32), "layer.bias")
    nodes = [
        helper.make_node("MatMul", ["x", "layer.weight"], ["xw"]),
        helper.make_node("Add", ["xw", "layer.bias"], ["y"]),
    ]
    declared = TensorProto(name="layer.weight", data_type=TensorProto.FLOAT, dims=[INPUTS, OUTPUTS])
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, OUTPUTS])],
        [declared, bias],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return Graph(model=model, weights={"layer.weight": weight}, transposed=frozenset())


def prepared(opset: int = 23) -> QuantizableGraph:
    return QuantizableGraph.of(one_layer(opset))


def inputs() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((ROWS, INPUTS)).astype(np.float32)


def by_hand(x: np.ndarray, form: Format, scale: float) -> np.ndarray:
    """Round to the format with ml_dtypes and numpy alone."""
    limits = (-448, 448) if form is FP8 else (-128, 127)
    ratio = np.clip(x / np.float32(scale), *limits)
    if form is FP8:
        return ratio.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(scale)
    return np.round(ratio) * np.float32(scale)


@pytest.mark.parametrize("form", [INT8, FP8], ids=lambda form: form.name)
@pytest.mark.parametrize("inputs_too", [True, False], ids=["inputs", "weights"])
def test_one_layer_is_the_sum_of_rounded_products(form: Format, inputs_too: bool) -> None:
    scheme = GraphScheme(weights=form, activations=form if inputs_too else None)
    scale = 3.0 / form.largest
    graph = quantize_graph(prepared(), scheme, {"layer": scale})
    x = inputs()
    weight = one_layer().weights["layer.weight"]
    scales = graph.weights["layer.weight.scale"]
    rounded = np.stack(
        [by_hand(weight[:, i], form, float(scales[i])) for i in range(OUTPUTS)], axis=1
    )
    bias = numpy_helper.to_array(one_layer().model.graph.initializer[1])
    expected = (by_hand(x, form, scale) if inputs_too else x) @ rounded + bias
    # Measured: 4e-7.
    assert l2_error(Session(graph)({"x": x})[0], expected) < 1e-5


def test_int4_in_blocks_is_the_sum_of_rounded_products() -> None:
    graph = quantize_graph(prepared(), GraphScheme(weights=INT4, block=32), {})
    scales = graph.weights["layer.weight.scale"]
    assert scales.shape == (2, OUTPUTS)
    values = graph.weights["layer.weight"].astype(np.float32) * np.repeat(scales, 32, axis=0)
    bias = numpy_helper.to_array(one_layer().model.graph.initializer[1])
    actual = Session(graph)({"x": inputs()})[0]
    assert l2_error(actual, inputs() @ values + bias) < 1e-5  # measured 3e-7


PER_TOKEN = GraphScheme(weights=INT8, activations=INT8, per_token=True)


def test_every_token_has_its_range() -> None:
    graph = quantize_graph(prepared(), PER_TOKEN, {})
    x = inputs()
    x[3], x[5] = 0, x[5] * 1e4
    largest = np.maximum(np.abs(x).max(axis=1, keepdims=True), np.float32(1e-30))
    rounded = np.round(x / largest * np.float32(127)) / 127 * largest
    weight = graph.weights["layer.weight"].astype(np.float32) * graph.weights["layer.weight.scale"]
    bias = numpy_helper.to_array(one_layer().model.graph.initializer[1])
    actual, expected = Session(graph)({"x": x})[0], rounded @ weight + bias
    for token in range(ROWS):
        # Measured: 6e-7, but for a tie that division rounds to the other side.
        assert l2_error(actual[token], expected[token]) < 1e-5, token
    assert np.array_equal(actual[3], bias)


def test_a_token_does_not_depend_on_the_others() -> None:
    run = Session(quantize_graph(prepared(), PER_TOKEN, {}))
    x = inputs()
    others = x.copy()
    others[1:] *= 100
    assert np.array_equal(run({"x": x})[0][0], run({"x": others})[0][0])


def test_layers_that_read_one_value_have_different_pairs_by_token() -> None:
    """onnxruntime merges equal pairs, and fuses no product whose pair another one reads."""
    graph = quantized("int8-cpu")
    pairs = [node for node in graph.model.graph.node if node.op_type == "QuantizeLinear"]
    by_value: dict[str, list[str]] = {}
    for node in pairs:
        by_value.setdefault(node.input[0], []).append(node.input[1])
    shared = [scales for scales in by_value.values() if len(scales) > 1]
    assert shared
    assert all(len(set(scales)) == len(scales) for scales in by_value.values())
    ranges_of = [node for node in graph.model.graph.node if node.op_type == "ReduceMax"]
    assert len(ranges_of) == len(by_value)


def test_only_standard_operators_come_in() -> None:
    pairs = {"QuantizeLinear", "DequantizeLinear"}
    by_token = {*pairs, "ReduceMax", "ReduceMin", "Neg", "Max", "Div", "Mul"}
    of_tensorrt = {
        "nvfp4": {"TRT_FP4DynamicQuantize"},
        "mxfp8": {"TRT_MXFP8DynamicQuantize", "TRT_MXFP8DequantizeLinear"},
    }
    for name in SCHEMES:
        graph = quantized(name)
        foreign = {node.op_type for node in graph.model.graph.node if node.domain}
        assert foreign == of_tensorrt.get(name, set())
        added = Counter(node.op_type for node in graph.model.graph.node)
        added.subtract(node.op_type for node in step_graph().model.graph.node)
        operators = {op for op, count in added.items() if count}
        # Pad completes the blocks of this tiny network.
        others = foreign | {"Pad"} if SCHEMES[name].transformer.scale_format else set()
        takes_ranges = name in ("int8-cpu", "int8-openvino")
        assert operators <= (by_token if takes_ranges else pairs | others)


def quantized(name: str) -> Graph:
    scheme = find_scheme(name).transformer
    exclude = match_any(step().linears, scheme.exclude)
    smoothing = scheme.gains_by_smoothing
    scaled = smooth_and_scale(step(), scheme, ranges(), exclude=exclude, smoothing=smoothing)
    return quantize_graph(scaled.step, scheme, scaled.scales, exclude=exclude)


# Measured on these random weights: int8 0.11, fp8 0.09, fp8-attention 0.09, int8-weights 0.02,
# int4-weights 0.11, int8-cpu 0.034, int8-openvino 0.047, nvfp4 0.31, nvfp4-weights 0.14, mxfp8
# 0.066.
@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("int8", 0.2),
        ("fp8", 0.2),
        ("fp8-attention", 0.2),
        ("int8-weights", 0.05),
        ("int4-weights", 0.5),
        ("int8-cpu", 0.08),
        ("int8-openvino", 0.2),
        ("nvfp4", 0.5),
        ("nvfp4-weights", 0.5),
        ("mxfp8", 0.2),
    ],
)
def test_every_scheme_stays_near_its_source(name: str, bound: float) -> None:
    actual, expected = estimates(quantized(name)), estimates(step_graph())
    errors = [l2_error(a, b) for a, b in zip(actual, expected, strict=True)]
    assert 1e-5 < max(errors) < bound


def test_openvino_gets_int8_queries_and_keys_and_ranges_per_token_of_w2() -> None:
    graph = quantized("int8-openvino")
    nodes = {output: node for node in graph.model.graph.node for output in node.output}
    attention = [node for node in graph.model.graph.node if node.op_type == "Attention"]
    assert attention
    for node in attention:
        kinds = [nodes[value].op_type for value in node.input[:3]]
        assert kinds[:2] == ["DequantizeLinear"] * 2 and kinds[2] != "DequantizeLinear"
    # The last block has no text MLP. Ranges are taken in each run of the image's w2 alone.
    by_token = [node for node in graph.model.graph.node if node.op_type == "ReduceMax"]
    readers = [layer.source for layer in step().linears if layer.name.endswith("img_mlp.w2")]
    assert len(by_token) == len(readers) == len(attention)


def test_one_pair_a_value_and_none_around_what_stays() -> None:
    graph = quantized("int8")
    layers = [
        layer
        for layer in step().linears
        if layer.name != "final_layer.linear" and not layer.name.endswith("img_mlp.w2")
    ]
    pairs = [node for node in graph.model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == len({layer.site for layer in layers}) < len(layers)
    values = {node.input[0] for node in pairs}
    assert values == {layer.source for layer in layers}
    makers = {
        output: node.op_type for node in step_graph().model.graph.node for output in node.output
    }
    # After a norm, after SiLU times w3, after attention; never on a residual sum.
    assert {makers[value] for value in values} <= {"RMSNormalization", "Mul", "Slice", "Reshape"}


@pytest.mark.parametrize("per_token", [True, False], ids=["per token", "static"])
def test_a_layer_of_wide_inputs_has_only_its_weights_quantized(per_token: bool) -> None:
    scheme = GraphScheme(
        weights=INT8, activations=INT8, per_token=per_token, weights_only=("layer",)
    )
    light = quantize_graph(prepared(), scheme, {})
    alone = quantize_graph(prepared(), GraphScheme(weights=INT8), {})
    assert light.model == alone.model
    assert np.array_equal(light.weights["layer.weight"], alone.weights["layer.weight"])


W2 = "double_blocks.0.img_mlp.w2"


@pytest.mark.parametrize(
    ("pattern", "description"),
    [
        ("*.img_mlp.w2", "int8 inputs"),
        ("*.w2", "int8 inputs"),
        (W2, f"int8 inputs except of *.img_mlp.w2 other than {W2}"),
    ],
)
def test_any_pattern_includes_inputs_that_a_scheme_excludes(pattern: str, description: str) -> None:
    included = match_layers(step().linears, [pattern])
    names = [layer.name for layer in step().linears]
    scheme = find_scheme("int8").including(included, names).transformer
    light = {name for name in names if scheme.of_layer(name).activations is None}
    assert light == match_any(step().linears, ["*.img_mlp.w2"]) - included
    assert scheme.description == f"pair-safe int8 weights, {description}"
    plain = find_scheme("int8").transformer
    assert find_scheme("int8").including((), names).transformer == plain


def test_weights_are_stored_as_what_they_are() -> None:
    for name, dtype in (("int8", "int8"), ("fp8", "float8_e4m3fn"), ("int4-weights", "int4")):
        graph = quantized(name)
        for layer in step().linears:
            excluded = layer.name == "final_layer.linear"
            assert graph.weights[layer.weight].dtype.name == ("float32" if excluded else dtype)
            assert (layer.weight + ".scale" in graph.weights) != excluded


def test_excluded_layers_stay_as_they_are() -> None:
    names = match_layers(step().linears, ["*.w2", "final_layer.linear"])
    scheme = find_scheme("int8-weights").transformer
    graph = quantize_graph(step(), scheme, {}, exclude=names)
    for layer in step().linears:
        same = graph.weights[layer.weight] is step_graph().weights[layer.weight]
        assert same == (layer.name in names)
    with pytest.raises(UsageError, match=r"'\*\.w9' matches no linear layer"):
        match_layers(step().linears, ["*.w9"])


@pytest.mark.parametrize("name", ["int8", "fp8", "int4-weights", "nvfp4", "mxfp8"])
def test_written_and_read_again_it_runs_alike(tmp_path: Path, name: str) -> None:
    graph = quantized(name)
    write_graph(graph, tmp_path)
    again = read_graph(tmp_path / "model.onnx")
    for key, values in graph.weights.items():
        assert np.array_equal(again.weights[key].astype(np.float32), values.astype(np.float32))
    for actual, expected in zip(estimates(again), estimates(graph), strict=True):
        assert np.array_equal(actual, expected)
    write_graph(again, tmp_path / "twice")
    for file in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "twice" / file).read_bytes() == (tmp_path / file).read_bytes()


def test_the_data_file_is_a_safetensors_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    write_graph(quantized("int8"), tmp_path)
    with safe_open(tmp_path / "model.onnx.data", "numpy") as file:
        name = "double_blocks.0.img_qkv.weight"
        values, scale = file.get_tensor(name), file.get_tensor(f"{name}.scale")
        assert values.dtype == np.int8 and scale.shape == (values.shape[1],)
        assert file.get_tensor("double_blocks.0.img_qkv.input.scale").shape == ()


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["fp16", "bf16"])
def test_half_precision_bases_have_half_precision_scales(half: type) -> None:
    graph = one_layer()
    narrow = np.asarray(graph.weights["layer.weight"], dtype=half)
    scheme = GraphScheme(weights=INT8, activations=INT8)
    base = Graph(model=graph.model, weights={"layer.weight": narrow}, transposed=frozenset())
    narrow_graph = quantize_graph(QuantizableGraph.of(base), scheme, {"layer": 0.0234375})
    for name in ("layer.weight.scale", "layer.input.scale"):
        assert narrow_graph.weights[name].dtype == np.dtype(half)
    wide = widen(narrow_graph)
    assert wide.weights["layer.weight.scale"].dtype == np.float32
    of_float32 = quantize_graph(prepared(), scheme, {"layer": 0.0234375})
    x = {"x": inputs()}
    # The weights differ by their rounding to the half type: 0.4% for bfloat16.
    assert l2_error(Session(wide)(x)[0], Session(of_float32)(x)[0]) < 0.01


def test_the_opset_is_raised_where_the_scheme_needs_it() -> None:
    scheme = GraphScheme(weights=INT8, activations=INT8)
    assert quantize_graph(prepared(18), scheme, {"layer": 1.0}).opset == 18
    for newer in (GraphScheme(weights=FP8), GraphScheme(weights=INT4, block=32)):
        low, high = (quantize_graph(prepared(opset), newer, {}) for opset in (18, 23))
        assert (low.opset, high.opset) == (21, 23)
        x = {"x": inputs()}
        assert np.array_equal(Session(low)(x)[0], Session(high)(x)[0])


def test_what_cannot_be_done_is_refused() -> None:
    scheme = GraphScheme(weights=INT8, activations=INT8)
    with pytest.raises(UsageError, match="no scale for layer; calibrate"):
        quantize_graph(prepared(), scheme, {})
    with pytest.raises(RuntimeFailure, match="onnxruntime cannot open the graph"):
        Session(Graph(model=onnx.ModelProto(), weights={}, transposed=frozenset()))
    with pytest.raises(RuntimeFailure, match="onnxruntime failed"):
        Session(step_graph())({"x": states()[0].inputs["x"]})
