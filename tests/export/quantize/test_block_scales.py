"""NVFP4 and MXFP8 against ml_dtypes and onnx's reference, on all values of the formats."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from minit2i_deploy.export.quantize import (
    Graph,
    QuantizableGraph,
    Session,
    find_scheme,
    quantize_graph,
)
from minit2i_deploy.export.quantize.formats import FP4, FP8, Format
from minit2i_deploy.export.quantize.graph.float32_graph import in_float32
from minit2i_deploy.export.quantize.graph.model_graph import widen
from minit2i_deploy.export.quantize.rounding.block_scales import (
    E4M3,
    E8M0,
    e8m0_codes,
    input_scales,
    power_of_two_above,
    representable_scales,
    scales_of_codes,
    tensor_scale,
)
from minit2i_deploy.export.quantize.rounding.matrix import quantize_matrix

TENSOR = np.float32(2.0**-6)
E4M3_SCALES = np.arange(1, 127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
FP4_VALUES = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)


def one_layer(weight: np.ndarray, rows: int) -> QuantizableGraph:
    """y = x W."""
    inputs, outputs = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "layer.weight"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, outputs])],
        [TensorProto(name="layer.weight", data_type=TensorProto.FLOAT, dims=[inputs, outputs])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    weights = {"layer.weight": weight.astype(np.float32)}
    return QuantizableGraph.of(Graph(model=model, weights=weights, transposed=frozenset()))


def rounded_by_graph(x: np.ndarray, name: str, tensor: float = 1.0) -> np.ndarray:
    """x as the float32 graph rounds it, read off in front of the product."""
    step = one_layer(np.eye(x.shape[1], 8), len(x))
    graph = in_float32(quantize_graph(step, find_scheme(name).transformer, {"layer": tensor}))
    return Session(graph, ["layer.input.dequantized"])({"x": x})[0]


def round_inputs(
    x: np.ndarray, form: Format, block: int, kind: str, tensor: np.float32 | None = None
) -> np.ndarray:
    """x after rounding by blocks: float32; arguments as ``input_scales``."""
    scales = input_scales(x, form, block, kind, tensor)
    divisor = np.maximum(scales, np.finfo(np.float32).tiny)
    return form.quantize(x, divisor).astype(np.float32) * scales


def near(values: np.ndarray) -> np.ndarray:
    """Values, the middles between neighbours, and what is just above and below both."""
    middles = (values[1:] + values[:-1]) / 2
    exact = np.concatenate([values, middles]).astype(np.float32)
    return np.concatenate([exact, np.nextafter(exact, np.float32(9e9)), np.nextafter(exact, -9e9)])


def test_fp4_inputs_are_ml_dtypes_at_every_value_and_scale() -> None:
    fractions = np.unique(near(np.sort(FP4_VALUES)))
    fractions = fractions[np.abs(fractions) <= 6]
    padded = np.resize(fractions, (-(-len(fractions) // 15), 15)).astype(np.float32)
    blocks = np.concatenate([np.full((len(padded), 1), 6, np.float32), padded], axis=1)
    x = (blocks[None] * (E4M3_SCALES * TENSOR)[:, None, None]).reshape(-1, 16)
    scales = np.abs(x).max(axis=1, keepdims=True) / (6 * TENSOR)
    codes = scales.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * TENSOR
    expected = (x / codes).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * codes
    assert np.array_equal(round_inputs(x, FP4, 16, E4M3, TENSOR), expected)
    assert np.array_equal(rounded_by_graph(x, "nvfp4", float(TENSOR)), expected)


def test_blocks_of_zeros_and_of_too_large_values() -> None:
    x = np.zeros((3, 16), np.float32)
    x[1, 3] = 1e6
    x[2] = 1e-9
    expected = np.zeros_like(x)
    # Saturated: the largest scale, 448, times the largest value.
    expected[1, 3] = 6 * 448 * TENSOR
    assert np.array_equal(round_inputs(x, FP4, 16, E4M3, TENSOR), expected)
    assert np.array_equal(rounded_by_graph(x, "nvfp4", float(TENSOR)), expected)


def test_mxfp8_inputs_are_ml_dtypes_at_every_value_and_power() -> None:
    values = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    every = near(values)
    every = np.resize(every[every <= 448], (-(-len(every) // 31), 31)).astype(np.float32)
    blocks = np.concatenate([np.full((len(every), 1), 448, np.float32), every], axis=1)
    powers = np.ldexp(np.float32(1), np.arange(-60, 60, 7)).astype(np.float32)
    x = (blocks[None] * powers[:, None, None]).reshape(-1, 32)
    scale = np.repeat(powers, len(blocks))[:, None]
    expected = (x / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    assert np.array_equal(round_inputs(x, FP8, 32, E8M0), expected)
    assert np.array_equal(rounded_by_graph(x, "mxfp8"), expected)


def test_mxfp8_scales_are_the_least_powers_that_saturate_nothing() -> None:
    exact = np.ldexp(np.float32(448), np.arange(-40, 40)).astype(np.float32)
    largest = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), exact * 0.99])
    x = np.zeros((len(largest), 32), np.float32)
    x[:, 5] = largest
    rounded = rounded_by_graph(x, "mxfp8")
    assert np.array_equal(rounded, round_inputs(x, FP8, 32, E8M0))
    assert (np.abs(rounded[:, 5] / largest - 1) <= 2.0**-4).all()
    scales = power_of_two_above(largest / np.float32(448))
    assert (scales * 448 >= largest * (1 - 2.0**-23)).all() and (scales * 224 < largest).all()
    assert np.array_equal(scales_of_codes(e8m0_codes(scales)), scales)


def test_scales_in_e4m3_are_the_nearest_and_never_zero() -> None:
    tensor = tensor_scale(37.0, FP4)
    assert tensor == 2.0 ** np.ceil(np.log2(37 / (6 * 448)))
    ideal = near(E4M3_SCALES) * tensor
    ideal = ideal[ideal <= 448 * tensor]
    nearest = (ideal / tensor).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * tensor
    actual = representable_scales(ideal, E4M3, tensor)
    assert np.array_equal(actual[nearest > 0], nearest[nearest > 0])
    assert representable_scales(np.zeros(1, np.float32), E4M3, tensor) == 2.0**-9 * tensor


def test_onnx_reads_every_value_of_fp4_and_e4m3_as_we_do() -> None:
    codes = np.arange(256, dtype=np.uint8)
    codes = codes[(codes & 127) != 127].view(ml_dtypes.float8_e4m3fn)[None]
    values = np.tile(np.arange(16, dtype=np.uint8)[:, None], (1, codes.shape[1]))
    values = values.view(ml_dtypes.float4_e2m1fn)
    nodes = [
        helper.make_node("DequantizeLinear", ["scale", "tensor"], ["wide"]),
        helper.make_node("DequantizeLinear", ["values", "wide"], ["y"], axis=0, block_size=16),
    ]
    graph = helper.make_graph(
        nodes,
        "pair",
        [
            helper.make_tensor_value_info("scale", TensorProto.FLOAT8E4M3FN, codes.shape),
            helper.make_tensor_value_info("tensor", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("values", TensorProto.FLOAT4E2M1, values.shape),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, values.shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    onnx.checker.check_model(model)
    inputs = {"scale": codes, "tensor": np.array(TENSOR), "values": values}
    actual = ReferenceEvaluator(model).run(None, inputs)[0]
    expected = values.astype(np.float32) * (codes.astype(np.float32) * TENSOR)
    assert np.array_equal(actual, expected)


@pytest.mark.parametrize("name", ["nvfp4", "nvfp4-weights", "mxfp8"])
@pytest.mark.parametrize("inputs", [64, 40], ids=["complete blocks", "a part of one"])
def test_one_layer_is_the_product_of_what_was_rounded(name: str, inputs: int) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((inputs, 24)).astype(np.float32)
    x = rng.standard_normal((20, inputs)).astype(np.float32)
    scheme = find_scheme(name).transformer
    tensor = tensor_scale(float(np.abs(x).max()), FP4)
    graph = quantize_graph(one_layer(weight, 20), scheme, {"layer": float(tensor)})
    rounded = quantize_matrix(weight, scheme)
    assert len(rounded.values) == inputs + scheme.padding(inputs)
    assert not rounded.values[inputs:].astype(np.float32).any()
    if scheme.activations is not None:
        scale = tensor if scheme.scale_format == E4M3 else None
        x_rounded = round_inputs(x, scheme.activations, scheme.block, scheme.scale_format, scale)
    else:
        x_rounded = x
    expected = x_rounded @ rounded.dequantize()[:inputs]
    actual = Session(in_float32(graph))({"x": x})[0]
    # Measured: 9e-8.
    assert np.linalg.norm(actual - expected) < 1e-5 * np.linalg.norm(expected)
    assert 0.01 < np.linalg.norm(actual - x @ weight) / np.linalg.norm(x @ weight) < 0.2


def test_the_nearest_fp4_is_no_better_than_searched_scales() -> None:
    weight = np.random.default_rng(5).standard_normal((64, 48)).astype(np.float32)
    scheme = find_scheme("nvfp4").transformer
    plain, searched = (quantize_matrix(weight, scheme, searched=each) for each in (False, True))
    errors = [np.square(each.dequantize() - weight).sum() for each in (plain, searched)]
    # Measured: 0.72 of it.
    assert errors[1] < 0.9 * errors[0]
    # Some blocks map their largest magnitude to 4 and not to 6.
    largest = np.abs(searched.values.astype(np.float32)).reshape(4, 16, 48).max(axis=1)
    assert {4.0, 6.0} <= set(largest.reshape(-1).tolist())


def test_scales_are_exact_in_half_precision() -> None:
    weight = np.random.default_rng(6).standard_normal((64, 48)).astype(np.float32) * 0.02
    rounded = quantize_matrix(weight, find_scheme("nvfp4").transformer, searched=True)
    for half in (np.float16, ml_dtypes.bfloat16):
        assert np.array_equal(rounded.scale.astype(half).astype(np.float32), rounded.scale)
        wide = rounded.dequantize()
        assert np.array_equal(wide.astype(half).astype(np.float32), wide)


def test_what_onnxruntime_runs_is_left_as_it_is() -> None:
    step = one_layer(np.eye(32, 8), 4)
    graph = quantize_graph(step, find_scheme("int4-weights").transformer, {})
    assert in_float32(graph) is widen(graph) is graph
