"""GPTQ, branches of low rank and rotation: what they keep, and what they gain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize import (
    GraphScheme,
    QuantizableGraph,
    Session,
    find_scheme,
    match_any,
    quantize_graph,
    smooth_and_scale,
)
from minit2i_deploy.export.quantize.formats import INT4
from minit2i_deploy.export.quantize.graph.float32_graph import in_float32
from minit2i_deploy.export.quantize.rotation import (
    hadamard,
    rotate_calibration,
    rotate_channels,
    rotate_step,
    rotation_block,
)
from minit2i_deploy.export.quantize.rounding.gptq import quantize_by_gptq, second_moments
from minit2i_deploy.export.quantize.rounding.layers import ROUNDINGS, check_rounding, round_layers
from minit2i_deploy.export.quantize.rounding.low_rank import low_rank_branch
from minit2i_deploy.export.quantize.rounding.matrix import quantize_matrix
from tests.export.quantize.test_block_scales import one_layer
from tests.helpers.quantize_runs import (
    estimates,
    l2_error,
    ranges,
    source,
    states,
    step,
    step_graph,
)

BLOCKS = GraphScheme(weights=INT4, block=32)
NVFP4 = find_scheme("nvfp4").transformer


def correlated_inputs(channels: int = 64) -> np.ndarray:
    """Channels of which each is mostly a sum of a few others, as a network's are."""
    rng = np.random.default_rng(7)
    mixed = rng.standard_normal((600, 12)) @ rng.standard_normal((12, channels))
    return (mixed + 0.1 * rng.standard_normal((600, channels))).astype(np.float32)


def matrix(channels: int = 64, outputs: int = 40) -> np.ndarray:
    return np.random.default_rng(8).standard_normal((channels, outputs)).astype(np.float32)


@pytest.mark.parametrize("scheme", [BLOCKS, NVFP4], ids=["int4", "nvfp4"])
def test_gptq_keeps_the_products_of_correlated_inputs(scheme: GraphScheme) -> None:
    x, weight = correlated_inputs(), matrix()
    held_out = x[400:]
    by_gptq = quantize_by_gptq(weight, scheme, second_moments(x[:400])).dequantize()
    searched = quantize_matrix(weight, scheme, searched=True).dequantize()
    errors = [l2_error(held_out @ each, held_out @ weight) for each in (by_gptq, searched)]
    # Measured: 0.39 of it with INT4, 0.45 with NVFP4.
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("scheme", [BLOCKS, NVFP4], ids=["int4", "nvfp4"])
def test_without_correlations_gptq_is_the_search_for_scales(scheme: GraphScheme) -> None:
    weight = matrix()
    by_gptq = quantize_by_gptq(weight, scheme, np.eye(len(weight)))
    searched = quantize_matrix(weight, scheme, searched=True)
    assert np.array_equal(by_gptq.dequantize(), searched.dequantize())


def test_gptq_takes_blocks_that_do_not_divide() -> None:
    weight, x = matrix(40), correlated_inputs(40)
    scheme = find_scheme("mxfp8").transformer
    rounded = quantize_by_gptq(weight, scheme, second_moments(x))
    assert rounded.values.shape == (64, 40) and rounded.scale.shape == (2, 40)
    assert not rounded.values[40:].astype(np.float32).any()
    assert l2_error(x @ rounded.dequantize()[:40], x @ weight) < 0.05  # measured 0.011


def test_a_branch_of_full_rank_is_the_matrix_and_a_narrow_one_its_best_part() -> None:
    x, weight = correlated_inputs(), matrix()
    moments = second_moments(x)
    assert l2_error(low_rank_branch(weight, moments, 40).product(), weight) < 1e-4
    rest = [
        l2_error(x @ low_rank_branch(weight, moments, rank).product(), x @ weight)
        for rank in (4, 8, 12)
    ]
    # The inputs have twelve large directions. Measured: 0.61, 0.32, 0.024.
    assert rest[0] > rest[1] > 10 * rest[2]
    left, sizes, right = np.linalg.svd(weight)
    plain = (left[:, :8] * sizes[:8]) @ right[:8]
    assert rest[1] < l2_error(x @ plain, x @ weight)


@pytest.mark.parametrize("name", ["int4-weights", "nvfp4", "int8-cpu"])
def test_a_branch_is_added_to_the_product(name: str) -> None:
    x, weight = correlated_inputs()[:20], matrix()
    scheme = find_scheme(name).transformer
    branch = low_rank_branch(weight, second_moments(x), 6)
    rest = quantize_matrix(weight - branch.product(), scheme)
    plain, full = one_layer(weight, 20), {"layer": 2.0**-6}
    without = quantize_graph(plain, scheme, full, weights={"layer": rest})
    graph = quantize_graph(plain, scheme, full, weights={"layer": rest}, branches={"layer": branch})
    product = Session(in_float32(without))({"x": x})[0]
    actual = Session(in_float32(graph))({"x": x})[0]
    assert l2_error(actual, product + x @ branch.down @ branch.up) < 1e-5  # measured 2e-7


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("rank", [0, 4])
def test_every_rounding_quantizes_the_step_graph(rounding: str, rank: int) -> None:
    scheme = find_scheme("int4-weights").transformer
    exclude = match_any(step().linears, scheme.exclude)
    layers = round_layers(step(), scheme, ranges(), rounding=rounding, rank=rank, exclude=exclude)
    names = {layer.name for layer in step().linears} - exclude
    assert layers.weights.keys() == names
    assert layers.branches.keys() == (names if rank else set())
    graph = quantize_graph(
        step(), scheme, {}, exclude=exclude, weights=layers.weights, branches=layers.branches
    )
    errors = [
        l2_error(a, b) for a, b in zip(estimates(graph), estimates(step_graph()), strict=True)
    ]
    plain = quantize_graph(step(), scheme, {}, exclude=exclude)
    assert (graph.num_bytes == plain.num_bytes) == (rank == 0)
    # Measured: 0.15 at most on these random weights.
    assert 1e-5 < max(errors) < 0.3


def test_rotation_changes_every_weight_and_no_value() -> None:
    turned = rotate_step(step())
    for layer in step().linears:
        if ".txt_" not in layer.name and not layer.name.endswith("w2"):
            assert l2_error(turned.matrix(layer), step().matrix(layer)) > 0.1, layer.name
    for actual, expected in zip(estimates(turned.graph), estimates(step_graph()), strict=True):
        # Measured: 9e-7. Only sums are in another order.
        assert l2_error(actual, expected) < 1e-5


def test_what_was_recorded_is_rotated_with_the_graph() -> None:
    """Each layer's product stays what it was."""
    turned, recorded = rotate_step(step()), rotate_calibration(step(), ranges())
    changed = 0
    for layer in step().linears:
        before = ranges().activations[layer.site] @ step().matrix(layer)
        after = recorded.activations[layer.site] @ turned.matrix(layer)
        writes = layer.name.endswith(("img_attn_proj", "img_mlp.w2"))
        reads_heads = layer.name.endswith("qkv")
        if writes:
            after = rotate_channels(after, layer.num_outputs)
        width = 2 * layer.num_inputs if reads_heads else after.shape[1]
        # Measured: 4e-7.
        assert l2_error(after[:, :width], before[:, :width]) < 1e-5, layer.name
        changed += not np.array_equal(
            recorded.activations[layer.site], ranges().activations[layer.site]
        )
    assert changed > len(step().linears) // 2


def test_values_of_attention_are_rotated_with_the_graph() -> None:
    """Their range is what fp8-attention scales them by; queries and keys keep theirs."""
    turned, recorded = rotate_step(step()), rotate_calibration(step(), ranges())
    inputs = states()[0].inputs
    for site in step().attention:
        before, after = (_value(graph, site.value, inputs) for graph in (step(), turned))
        plain = ranges().activations[site.name]
        if not site.name.endswith(".v"):
            assert l2_error(after, before) < 1e-4
            assert recorded.activations[site.name] is plain
            continue
        # Measured: 6e-7.
        head_dim = source().config.head_dim
        assert l2_error(after, rotate_channels(before, head_dim)) < 1e-5
        expected = rotate_channels(plain, head_dim)
        np.testing.assert_array_equal(recorded.activations[site.name], expected)
        highest = np.abs(expected).max()
        assert recorded.tensor_absmax(site.name) == pytest.approx(highest, rel=2.0**-11)


def _value(graph: QuantizableGraph, value: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    with Session(graph.graph, [value]) as run:
        return run({name: inputs[name] for name in run.inputs})[0]


GAIN = "double_blocks.1.img_norm1.weight"


def cast_in_front(norm: onnx.NodeProto) -> list[onnx.NodeProto]:
    """As a bfloat16 network has it: the norm reads its gain in float32."""
    wide = helper.make_node("Cast", [GAIN], ["wide_gain"], to=TensorProto.FLOAT)
    norm.input[1] = "wide_gain"
    return [wide, norm]


def cast_behind(norm: onnx.NodeProto) -> list[onnx.NodeProto]:
    output = norm.output[0]
    norm.output[0] = "wide_output"
    return [norm, helper.make_node("Cast", ["wide_output"], [output], to=TensorProto.FLOAT)]


def fused_with_the_sum(norm: onnx.NodeProto) -> list[onnx.NodeProto]:
    """As ``--for cuda`` has it: the gain is input 2."""
    return [
        helper.make_node(
            "SkipSimplifiedLayerNormalization",
            [norm.input[0], norm.input[0], GAIN],
            list(norm.output),
            domain="com.microsoft",
        )
    ]


@pytest.mark.parametrize("change", [cast_in_front, cast_behind, fused_with_the_sum])
def test_a_norm_that_does_not_read_its_gain_directly_is_refused(
    change: Callable[[onnx.NodeProto], list[onnx.NodeProto]],
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(step_graph().model)
    nodes = []
    for node in model.graph.node:
        nodes += change(node) if GAIN in node.input else [node]
    assert len(nodes) - len(model.graph.node) == (change is not fused_with_the_sum)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    changed = QuantizableGraph.of(dataclasses.replace(step_graph(), model=model))
    assert len(changed.linears) == len(step().linears)
    text = rf"cannot be rotated \(its norms do not read {GAIN} directly\); quantize it without"
    with pytest.raises(UsageError, match=text):
        rotate_step(changed)
    with pytest.raises(UsageError, match=text):
        rotate_calibration(changed, ranges())


def test_rotated_and_quantized_it_stays_near_its_source() -> None:
    turned, recorded = rotate_step(step()), rotate_calibration(step(), ranges())
    exclude = match_any(step().linears, NVFP4.exclude)
    scaled = smooth_and_scale(turned, NVFP4, recorded, smoothing=False, exclude=exclude)
    layers = round_layers(scaled.step, NVFP4, recorded, rounding="gptq", exclude=exclude)
    graph = quantize_graph(
        scaled.step, NVFP4, scaled.scales, exclude=exclude, weights=layers.weights
    )
    errors = [
        l2_error(a, b) for a, b in zip(estimates(graph), estimates(step_graph()), strict=True)
    ]
    assert 1e-5 < max(errors) < 0.5


@pytest.mark.parametrize(
    ("channels", "block"), [(768, 64), (192, 64), (1248, 32), (3376, 16), (48, 16), (52, 4)]
)
def test_blocks_of_a_rotation_divide_the_channels(channels: int, block: int) -> None:
    assert rotation_block(channels) == block
    assert np.allclose(hadamard(block) @ hadamard(block), np.eye(block), atol=1e-6)
    values = np.random.default_rng(1).standard_normal((3, channels)).astype(np.float32)
    mixed = rotate_channels(values, channels)
    assert np.allclose(np.square(mixed).sum(axis=1), np.square(values).sum(axis=1), rtol=1e-5)
    assert np.allclose(rotate_channels(mixed, channels), values, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown rounding 'best'; choose one of nearest, search"):
        check_rounding("best", BLOCKS, "int4-weights")
    with pytest.raises(UsageError, match="rounding gptq does not bound the sums of pairs"):
        check_rounding("gptq", find_scheme("int8").transformer, "int8")
    graph = one_layer(matrix(), 4)
    with pytest.raises(UsageError, match=r"cannot be rotated \(it has layer.weight\)"):
        rotate_step(QuantizableGraph.of(graph.graph))
