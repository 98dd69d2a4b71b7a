"""Quantization where layers run several times: a scale for each pass, one set of weights."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import PrecisionWarning
from minit2i_deploy.export.quantize import (
    Calibration,
    DrawSettings,
    Graph,
    QuantizableGraph,
    QuantizeOptions,
    calibrate,
    find_scheme,
    match_any,
    quantize_bundle,
    quantize_graph,
    run_trajectories,
    smooth_and_scale,
)
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.rotation import rotate_step
from minit2i_deploy.export.quantize.schemes import SCHEMES
from minit2i_deploy.export.quantize.smoothing import apply_smoothing, smooth_groups
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from tests.helpers.looped import looped_bundle
from tests.helpers.quantize_runs import PROMPTS, SETTINGS, l2_error


@functools.cache
def source() -> Bundle:
    return Bundle.open(looped_bundle())


@functools.cache
def step() -> QuantizableGraph:
    return QuantizableGraph.read(source().graph_path("transformer"))


@functools.cache
def ranges() -> Calibration:
    return calibrate(source(), PROMPTS, SETTINGS)


def estimate(graph: Graph) -> np.ndarray:
    """The guided estimate in the middle of a trajectory of the source."""
    with GraphsRuntime(source()) as runtime:
        table = source().table("euler-20")
        (trajectory,) = run_trajectories(source(), runtime, ["a star"], [3], [{9}], table, 2.5)
    with GraphsRuntime(source(), {"transformer": graph}) as runtime:
        return runtime.session("transformer")(trajectory.states[0].estimate_inputs())[0]


def test_each_pass_has_sites_of_its_own() -> None:
    names = [layer.name for layer in step().linears]
    assert names.count("double_blocks.1.img_qkv") == names.count("double_blocks.2.txt_mlp.w2") == 2
    assert names.count("double_blocks.0.img_qkv") == 1
    sites = [site.name for site in step().sites]
    assert len(set(sites)) == len(sites)
    expected = {"double_blocks.1.img_qkv", "double_blocks.1.img_qkv.pass2"}
    expected |= {"double_blocks.1.attention.v", "double_blocks.1.attention.v.pass2"}
    assert expected <= set(sites)


def test_smoothing_scales_each_weight_once_and_spares_exclusive_attention() -> None:
    groups = {group.name: group for group in smooth_groups(step())}
    assert "double_blocks.0.txt_attn_proj" in groups
    assert "double_blocks.1.txt_attn_proj" not in groups
    assert len(groups["double_blocks.1.img_mlp.w1"].layers) == 4
    rng = np.random.default_rng(1)
    exponents = {name: rng.integers(-3, 4, group.channels) for name, group in groups.items()}
    smoothed = apply_smoothing(step(), exponents).graph
    expected = estimate(step().graph)
    # Measured: the same bits.
    assert np.abs(estimate(smoothed) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "bound"),
    # Measured 0.031, 0.021 and 0.14 on random weights.
    [("int8", 0.06), ("int8-cpu", 0.05), ("int4-weights", 0.25)],
)
def test_an_estimate_stays_near(name: str, bound: float) -> None:
    scheme = find_scheme(name).transformer
    exclude = match_any(step().linears, scheme.exclude)
    scaled = smooth_and_scale(step(), scheme, ranges(), exclude=exclude)
    graph = quantize_graph(scaled.step, scheme, scaled.scales, exclude=exclude)
    assert graph.weights["double_blocks.1.img_qkv.weight"].dtype.name.startswith("int")
    error = l2_error(estimate(graph), estimate(step().graph))
    assert 1e-4 < error < bound


@pytest.mark.parametrize(
    ("name", "bound"),
    # Measured 0.076 and 0.110 of the trajectory's range, on random weights.
    [("int8-weights", 0.15), ("int8-cpu", 0.2)],
)
def test_a_bundle_from_end_to_end(
    name: str, bound: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The schemes' own bounds are for trained weights.
    loose = dataclasses.replace(SCHEMES[name], bounds=(1.0, 1.0))
    monkeypatch.setitem(SCHEMES, name, loose)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS.texts[:4]) + "\n")
    options = QuantizeOptions(scheme=name, prompts=prompts)
    if options.needs_calibration:
        draw = DrawSettings(samples=2, strata=2, activations=32)
        options = dataclasses.replace(options, draw=draw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        bundle = quantize_bundle(source().path, tmp_path / "bundle", options)
        bundle.verify()
        assert bundle.config == source().config and bundle.config.loop is not None
        checks = {check.name: check.measured for check in bundle.manifest.checks}
        assert 0 < checks["trajectory"] < bound
        images = []
        for each in (source(), bundle):
            with open_runtime(each, "onnxruntime") as runtime:
                table = each.table("euler-20")
                images.append(generate(each, runtime, "a star", table=table, guidance=2.5).x)
    error = np.sqrt(np.square(images[1] - images[0]).mean()) / 2
    assert 0 < error < bound


def test_a_rotation_changes_nothing_where_layers_run_several_times() -> None:
    """XSA takes away what is along v, and no rotation of v and what is attended changes that."""
    plain, rotated = estimate(step().graph), estimate(rotate_step(step()).graph)
    # Measured 7.4e-6 of values up to 8.1.
    assert np.abs(rotated - plain).max() < 8e-5
    weights = step().graph.weights
    turned = rotate_step(step()).graph.weights
    changed = [name for name, value in weights.items() if not np.array_equal(value, turned[name])]
    assert len(changed) > len(weights) / 4
