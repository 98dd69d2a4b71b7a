"""Smoothing changes no output and moves the ranges that it says it moves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from minit2i_deploy.errors import PrecisionWarning
from minit2i_deploy.export.quantize import (
    QuantizableGraph,
    find_scheme,
    match_any,
    read_graph,
    smooth_and_scale,
    write_graph,
)
from minit2i_deploy.export.quantize.graph.model_graph import Session
from minit2i_deploy.export.quantize.smoothing import (
    apply_smoothing,
    smooth_groups,
    smoothing_exponents,
    ungrouped_layers,
)
from minit2i_deploy.export.quantize.smoothing_search import ALPHAS
from tests.helpers.quantize_runs import estimates, ranges, states, step, step_graph


def test_every_layer_is_in_one_group() -> None:
    layers = [layer.name for layer in step().linears]
    grouped = [layer.name for group in smooth_groups(step()) for layer in group.layers]
    assert sorted(grouped) == sorted(layers)


def test_groups_share_a_vector_where_their_layers_share_what_they_read() -> None:
    groups = {group.name: group for group in smooth_groups(step())}
    norm = groups["double_blocks.0.img_mlp.w1"]
    assert [layer.name for layer in norm.layers] == [
        "double_blocks.0.img_mlp.w1",
        "double_blocks.0.img_mlp.w3",
    ]
    assert [slot.weight for slot in norm.sources] == ["double_blocks.0.img_norm2.weight"]
    attention = groups["double_blocks.0.txt_attn_proj"]
    assert {layer.name for layer in attention.layers} == {
        "double_blocks.0.img_attn_proj",
        "double_blocks.0.txt_attn_proj",
    }
    assert len(attention.sources) == 4


@pytest.mark.parametrize(
    ("opset", "precision", "only_for"),
    [(18, "fp32", None), (23, "bf16", None), (23, "fp16", "cuda")],
)
def test_norms_of_every_export_are_known(
    opset: int, precision: str, only_for: str | None, tmp_path: Path
) -> None:
    """In products at opset 18, with cast weights in bfloat16, and joined with a sum for CUDA."""
    graph = _exported(opset, precision, only_for, tmp_path)
    assert ungrouped_layers(graph, smooth_groups(graph)) == frozenset()
    groups = {group.name: group.sources for group in smooth_groups(graph)}
    for name, norm in (("img_qkv", "img_norm1"), ("img_mlp.w1", "img_norm2")):
        (slot,) = groups[f"double_blocks.0.{name}"]
        assert slot.weight == f"double_blocks.0.{norm}.weight"


def _exported(opset: int, precision: str, only_for: str | None, folder: Path) -> QuantizableGraph:
    torch = pytest.importorskip("torch")
    from minit2i_deploy.export.graphs.modules import (
        canonical_name,
        network_dtype,
        step_signature,
    )
    from minit2i_deploy.export.graphs.onnx_export import to_onnx
    from minit2i_deploy.export.graphs.onnxruntime_denoiser import FusedDenoiser
    from minit2i_deploy.export.graphs.onnxruntime_heads import use_onnxruntime_heads
    from minit2i_deploy.export.graphs.weights_file import write_graph as write_exported
    from minit2i_deploy.model.mmjit import MMJiT
    from minit2i_deploy.model.step import Step
    from tests.helpers.bundles import CONFIG

    with torch.no_grad():
        net = MMJiT(CONFIG).eval().to(network_dtype(precision))
        if only_for is not None:
            use_onnxruntime_heads(net)
        step = Step(FusedDenoiser(net.denoiser) if only_for else net.denoiser).eval()
        model = to_onnx(step, step_signature(CONFIG), opset)
        write_exported(model, step, folder, canonical_name)
    return QuantizableGraph.read(folder / "model.onnx")


def test_a_norm_that_another_node_reads_is_not_divided() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(step_graph().model)
    (value,) = {x.source for x in step().linears if x.name == "double_blocks.0.img_mlp.w1"}
    model.graph.node.append(helper.make_node("Neg", [value], ["elsewhere"]))
    graph = QuantizableGraph.of(dataclasses.replace(step_graph(), model=model))
    layers = {"double_blocks.0.img_mlp.w1", "double_blocks.0.img_mlp.w3"}
    assert ungrouped_layers(graph, smooth_groups(graph)) == layers
    scheme = find_scheme("int8").transformer
    exclude = match_any(step().linears, scheme.exclude)
    text = r"2 of \d+ quantized layers, double_blocks.0.img_mlp.w1 among them, are not smoothed"
    with pytest.warns(PrecisionWarning, match=text):
        smooth_and_scale(graph, scheme, ranges(), exclude=exclude)


def random_exponents() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {group.name: rng.integers(-3, 4, group.channels) for group in smooth_groups(step())}


def test_smoothing_by_any_powers_changes_no_output() -> None:
    smoothed = apply_smoothing(step(), random_exponents()).graph
    changed = [
        name
        for name, values in smoothed.weights.items()
        if not np.array_equal(values, step_graph().weights[name])
    ]
    # Four norms or v and w3 slots and six matrices in a block, all of them.
    assert len(changed) > 8
    for actual, expected in zip(estimates(smoothed), estimates(step_graph()), strict=True):
        # Measured: the same bits. The documented bound is 1e-5.
        assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_wrong_vector_changes_the_output() -> None:
    smoothed = apply_smoothing(step(), random_exponents()).graph
    name = "double_blocks.0.img_norm1.weight"
    broken = dataclasses.replace(
        smoothed, weights={**smoothed.weights, name: step_graph().weights[name]}
    )
    actual, expected = estimates(broken)[0], estimates(step_graph())[0]
    assert np.abs(actual - expected).max() > 1e-3 * np.abs(expected).max()


def test_the_smoothed_value_is_the_old_one_over_the_powers() -> None:
    exponents = random_exponents()
    smoothed = apply_smoothing(step(), exponents)
    for name in ("double_blocks.0.img_qkv", "double_blocks.0.img_mlp.w2"):
        old, new = (_input(graph, name) for graph in (step(), smoothed))
        assert np.allclose(new, np.ldexp(old, -exponents[name]), rtol=1e-5, atol=1e-6)


def _input(version: QuantizableGraph, layer: str) -> np.ndarray:
    value = next(item.source for item in version.linears if item.name == layer)
    with Session(version.graph, [value]) as run:
        return run({name: states()[0].inputs[name] for name in run.inputs})[0]


def test_exponents_are_the_formula_rounded() -> None:
    inputs = np.float32([1, 16, 4, 0, 64])
    weights = np.float32([1, 1, 1, 1, 0.25])
    exponents = smoothing_exponents(inputs, weights, 0.5)
    ratio = np.log2(np.sqrt(inputs[[0, 1, 2, 4]] / weights[[0, 1, 2, 4]]))
    expected = np.rint(ratio - np.round(np.median(ratio)))
    assert exponents[[0, 1, 2, 4]].tolist() == expected.tolist()
    assert exponents[3] == 0


def test_the_strength_of_least_error_helps_where_channels_differ() -> None:
    scheme = find_scheme("int8").transformer
    exclude = match_any(step().linears, scheme.exclude)
    smooth = smooth_and_scale(step(), scheme, ranges(), exclude=exclude)
    plain = smooth_and_scale(step(), scheme, ranges(), exclude=exclude, smoothing=False)
    assert plain.alphas == {} and plain.step is step()
    assert smooth.errors.keys() == plain.errors.keys()
    assert any(smooth.alphas.values()) and set(smooth.alphas.values()) <= {0.0, *ALPHAS}
    # A little on these random weights, where channels hardly differ; half on a trained model.
    assert sum(smooth.errors.values()) < sum(plain.errors.values())


def test_scales_reach_to_the_range_and_clip_it_only_if_allowed() -> None:
    scheme = find_scheme("int8").transformer
    exclude = match_any(step().linears, scheme.exclude)
    unclipped, clipped = (
        smooth_and_scale(step(), scheme, ranges(), exclude=exclude, smoothing=False, clip=clip)
        for clip in (False, True)
    )
    assert "final_layer.linear" not in unclipped.scales
    for site, scale in unclipped.scales.items():
        highest = ranges().tensor_absmax(site)
        assert highest <= scale * 127 <= highest * (1 + 2**-6), site
        assert 0.39 * scale <= clipped.scales[site] <= scale
        assert clipped.errors[site] <= unclipped.errors[site]
    assert clipped.scales != unclipped.scales


def test_a_graph_that_is_written_is_the_graph_that_is_read(tmp_path: Path) -> None:
    smoothed = apply_smoothing(step(), random_exponents()).graph
    write_graph(smoothed, tmp_path)
    again = read_graph(tmp_path / "model.onnx")
    assert again.transposed == smoothed.transposed == step_graph().transposed
    assert again.weights.keys() == smoothed.weights.keys()
    for name, values in smoothed.weights.items():
        assert np.array_equal(again.weights[name], values)
