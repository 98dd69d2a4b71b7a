"""Bundles of Looped-DiT: the loop is inside the step graph, as often as asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.checkpoints import canonical_shapes
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export import ExportOptions, export_bundle, verify_bundle
from minit2i_deploy.export.graphs.head_padding import pad_heads, padding_for
from minit2i_deploy.export.graphs.modules import canonical_name, step_signature
from minit2i_deploy.export.graphs.onnx_export import to_onnx
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph
from minit2i_deploy.export.quantize import Session, read_graph
from minit2i_deploy.export.verification.reference import step_inputs
from minit2i_deploy.generate import generate
from minit2i_deploy.model import Step, build_network
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.row import Row
from tests.helpers.checkpoint_forms import hub_folder
from tests.helpers.looped import looped_bundle, looped_checkpoint, looped_pt
from tests.helpers.tiny_bundle import text_folder


def test_manifest() -> None:
    bundle = Bundle.open(looped_bundle())
    manifest, source = bundle.manifest, looped_checkpoint().config
    assert bundle.config == source.with_loops(2) and bundle.config.loop.num_loops == 2
    assert (manifest.flavour.name, manifest.variant) == ("looped-dit", None)
    assert bundle.preset("reference")[1] == 6.0
    checks = {check.name: check.measured for check in manifest.checks}
    # Measured 1.3e-6.
    assert checks["transformer"] <= 1e-5


def test_each_weight_is_stored_once() -> None:
    graph = read_graph(looped_bundle() / "transformer" / "model.onnx")
    config = looped_checkpoint().config
    names = {name for name in canonical_shapes(config) if name.startswith("double_blocks.1.")}
    assert names <= graph.weights.keys()
    readers = [n for n in graph.model.graph.node if "double_blocks.1.img_qkv.weight" in n.input]
    assert len(readers) == 2


def test_images_of_the_runtimes_are_equal() -> None:
    bundle, images = Bundle.open(looped_bundle()), {}
    for name in ("onnxruntime", "torch", "openvino"):
        with open_runtime(bundle, name) as runtime:
            result = generate(
                bundle,
                runtime,
                "a red circle",
                seed=7,
                table=bundle.table("euler-20"),
                guidance=3.0,
            )
        images[name] = np.asarray(result.images[0], np.int16)
    for name, image in images.items():
        assert (np.abs(image - images["torch"]) <= 1).mean() >= 0.999, name


def test_verify_runs_the_loop_as_often_as_the_bundle() -> None:
    checks = verify_bundle(looped_bundle(), looped_pt(), ExportOptions(text_encoder=text_folder()))
    assert {check.name for check in checks} >= {"transformer", "trajectory"}


def test_gates_and_wider_heads_at_opset_18(tmp_path: Path) -> None:
    """The step graph alone, with padded heads, against the network without pads."""
    checkpoint = looped_checkpoint("gate")
    config = checkpoint.config.with_loops(2)
    net = build_network(dataclasses.replace(checkpoint, config=config))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 3, 32, 32), np.float32)
    tokens = rng.standard_normal((1, 1, config.num_text_tokens, config.hidden_size), np.float32)
    row = Row(values=np.float32([0.2, 0.8, 0, 0, 0, 0]), weights=np.ones(1, np.float32))
    inputs = step_inputs(x, np.zeros_like(x), tokens, row)
    step = Step(net.denoiser).eval()
    with torch.no_grad():
        expected = step(**{name: torch.from_numpy(value) for name, value in inputs.items()})[0]
    padding = padding_for(config, 32)
    assert padding is not None
    pad_heads(net, padding)
    write_graph(to_onnx(step, step_signature(config), 18), step, tmp_path, canonical_name)
    with Session(read_graph(tmp_path / GRAPH_FILE)) as run:
        actual = run({name: inputs[name] for name in run.inputs})[0]
    # Measured 1.1e-6.
    assert np.abs(actual - expected.numpy()).max() <= 1e-5 * np.abs(expected.numpy()).max()


def test_loops_that_a_network_cannot_run(tmp_path: Path) -> None:
    for path, loops, text in (
        (hub_folder(), 2, "this network has no loop"),
        (looped_pt("untied"), 3, "choose 1 to 2"),
        (looped_pt(), 0, "expected a positive integer, got 0"),
    ):
        options = ExportOptions(text_encoder=text_folder(), loops=loops)
        with pytest.raises(UsageError, match=text):
            export_bundle(path, tmp_path / "bundle", options)
        assert not any(tmp_path.iterdir())
