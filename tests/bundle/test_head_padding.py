"""Heads padded with zeros: the same network to rounding, in torch, ONNX and TensorRT-RTX."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from minit2i_deploy.bundle.head_padding import HeadPadding
from minit2i_deploy.checkpoints import canonical_shapes
from minit2i_deploy.config import ModelConfig, StudentConfig
from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.choices import check_multiple
from minit2i_deploy.export.graphs.head_padding import pad_heads, padding_for
from minit2i_deploy.export.graphs.modules import (
    AdapterGraph,
    canonical_name,
    step_signature,
    text_adapter_signature,
)
from minit2i_deploy.export.graphs.onnx_export import to_onnx
from minit2i_deploy.export.graphs.weights_file import write_graph
from minit2i_deploy.export.tensorrt import BuildLibrary, build_engine
from minit2i_deploy.export.verification.reference import step_inputs
from minit2i_deploy.model import MMJiT, Step
from minit2i_deploy.model.heads import Heads
from minit2i_deploy.solvers.row import Row
from tests.helpers.engine_bundles import narrow_pair

# L/16's heads, on two of them.
CONFIG = ModelConfig(
    image_size=32, patch_size=8, hidden_size=104, num_heads=2, head_dim=52, depth_double=3,
    txt_input_size=32, prompt_length=12,
)  # fmt: skip
STUDENT = dataclasses.replace(CONFIG, student=StudentConfig())
PADDINGS = [HeadPadding(head_dim=52, padded=56), HeadPadding(head_dim=52, padded=64)]


def network(config: ModelConfig = CONFIG) -> MMJiT:
    """Random weights, none of which is zero or one."""
    net = MMJiT(config).eval().requires_grad_(False)
    maker = torch.Generator().manual_seed(3)
    for value in net.parameters():
        mean, spread = (0.0, 0.1) if value.ndim > 1 else (1.0, 0.2)
        value.copy_(mean + spread * torch.randn(value.shape, generator=maker))
    return net


def padded(net: MMJiT, padding: HeadPadding) -> MMJiT:
    other = copy.deepcopy(net)
    pad_heads(other, padding)
    return other


def inputs(config: ModelConfig = CONFIG, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    maker = torch.Generator().manual_seed(4)
    mask = torch.ones(2, config.prompt_length, dtype=torch.int64)
    mask[1, 5:] = 0
    size = config.image_size
    arguments = {
        "x": 2 * torch.randn(2, 3, size, size, generator=maker, dtype=torch.float64).to(dtype),
        "context": torch.randn(
            2, config.prompt_length, config.txt_input_size, generator=maker, dtype=torch.float64
        ).to(dtype),
        "mask": mask,
    }
    if config.student is not None:
        conditions = {"h": 0.25, "omega": 5.0, "t_min": 0.2, "t_max": 0.8}
        arguments |= {
            name: torch.full((2,), value, dtype=dtype) for name, value in conditions.items()
        }
    return arguments


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def test_padding_and_back_is_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    for padding in PADDINGS:
        for name, shape in canonical_shapes(CONFIG).items():
            weight = rng.standard_normal(shape).astype(np.float32)
            wide = padding.pad(name, weight)
            assert wide.shape == padding.padded_shape(name, shape)
            assert padding.unpadded_shape(name, wide.shape) == shape
            np.testing.assert_array_equal(padding.unpad(name, wide), weight, err_msg=name)
            # Nothing but zeros is added.
            assert np.count_nonzero(wide) == np.count_nonzero(weight)
            assert (wide is weight) == (not padding.is_padded(name))


def test_heads_stand_in_halves() -> None:
    """Pairs of the rotation stay half a head apart; done here with loops."""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((3 * 104, 5)).astype(np.float32)
    wide = PADDINGS[0].pad("double_blocks.0.img_qkv.weight", weight)
    expected = np.zeros((3 * 112, 5), np.float32)
    for head in range(6):
        for i in range(26):
            expected[56 * head + i] = weight[52 * head + i]
            expected[56 * head + 28 + i] = weight[52 * head + 26 + i]
    np.testing.assert_array_equal(wide, expected)
    out = PADDINGS[0].pad("double_blocks.0.txt_attn_proj.weight", weight[:104].T)
    np.testing.assert_array_equal(out, expected[:112].T)


@pytest.mark.parametrize("config", [CONFIG, STUDENT], ids=["base", "student"])
@pytest.mark.parametrize("padding", PADDINGS, ids=lambda p: str(p.padded))
def test_the_network_gives_the_same(config: ModelConfig, padding: HeadPadding) -> None:
    net = network(config)
    other, arguments = padded(net, padding), inputs(config)
    # Measured 3.2e-7 at most, and each of the two is up to 3.9e-7 from float64.
    assert 0 < error(other(**arguments), net(**arguments)) <= 2e-6
    exact = net.double()(**inputs(config, torch.float64))
    # Measured 8e-16; the next test shows how far above that a mistake lies.
    assert error(other.double()(**inputs(config, torch.float64)), exact) <= 1e-13


def test_each_part_of_the_rewrite_matters() -> None:
    """Without one of its parts the float64 network gives something else."""
    arguments = inputs(dtype=torch.float64)
    expected = network().double()(**arguments)

    def without(spoil: Any) -> float:
        other = padded(network(), PADDINGS[0]).double()
        for block in (*other.text_adapter.txt_preamble_blocks, *other.denoiser.double_blocks):
            spoil(block)
        return error(other(**arguments), expected)

    def no_scale(block: nn.Module) -> None:
        assert isinstance(block.heads, Heads)
        block.heads = dataclasses.replace(block.heads, scale=None)  # type: ignore[assignment]

    def no_epsilon(block: nn.Module) -> None:
        block.q_norm.eps = block.k_norm.eps = 1e-6  # type: ignore[union-attr, assignment]

    # Measured 2.6e-3 and 3.0e-9.
    assert without(no_scale) > 1e-5
    assert without(no_epsilon) > 1e-11


def sessions(net: MMJiT, opset: int, folder: Path) -> tuple[Any, Any]:
    parts = {
        "text_adapter": (AdapterGraph(net.text_adapter), text_adapter_signature(CONFIG)),
        "transformer": (Step(net.denoiser), step_signature(CONFIG)),
    }
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    opened = []
    for name, (module, signature) in parts.items():
        write_graph(to_onnx(module.eval(), signature, opset), module, folder / name, canonical_name)
        path = str(folder / name / "model.onnx")
        opened.append(
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        )
    return opened[0], opened[1]


@pytest.mark.parametrize("opset", [18, 23])
def test_the_graphs_give_the_same_in_onnxruntime(tmp_path: Path, opset: int) -> None:
    net, arguments = network(), inputs()
    adapter, step = sessions(padded(net, PADDINGS[0]), opset, tmp_path)
    context, mask = arguments["context"].numpy(), arguments["mask"].numpy()
    tokens = adapter.run(None, {"context": context, "mask": mask})[0]
    expected = net.text_adapter(arguments["context"], arguments["mask"])
    # Measured 3.0e-7 and 4.3e-7.
    assert error(torch.from_numpy(tokens), expected) <= 3e-6
    x = arguments["x"].numpy()
    row = Row(values=np.array([0, 1, 0, 0, 0, 0], np.float32), weights=np.ones(1, np.float32))
    x_next, _ = step.run(None, step_inputs(x, 0 * x, tokens[None], row))
    assert error(torch.from_numpy(x_next), net(**arguments)) <= 3e-6
    graph = onnx.load(tmp_path / "transformer" / "model.onnx", load_external_data=False).graph
    scales = [
        next(item.f for item in node.attribute if item.name == "scale")
        for node in graph.node
        if node.op_type == "Attention"
    ]
    assert len(scales) == (CONFIG.depth_double if opset == 23 else 0)
    assert scales == pytest.approx([52**0.5 / 56] * len(scales), rel=1e-6)


@pytest.mark.parametrize("multiple", [8, 16])
def test_padded_heads_are_fused_by_tensorrt_rtx(multiple: int) -> None:
    """Without pads: test_tensorrt_build.py."""
    graph, width = narrow_pair(multiple)
    assert width == {8: 56, 16: 64}[multiple]
    audit = build_engine(
        BuildLibrary.open("tensorrt_rtx"),
        graph,
        graph.with_suffix(".plan"),
        sizes={"batch": (1, 1, 1), "branches": (1, 2, 2), "sequences": (1, 2, 2)},
        targets=("sm89",),
        flags=BuildFlags(),
        precision="fp16",
    ).audit
    assert (audit.attention, audit.attention_fused, audit.softmax_unfused) == (2, 2, 0)
    assert set(audit.gemms) == {"fp16"}


def test_only_heads_that_need_it_are_padded() -> None:
    actual = {multiple: padding_for(CONFIG, multiple) for multiple in (1, 8, 16, 32, 64)}
    assert {m: None if p is None else p.padded for m, p in actual.items()} == {
        1: None, 8: 56, 16: 64, 32: 64, 64: 64,
    }  # fmt: skip
    b16 = dataclasses.replace(CONFIG, hidden_size=128, head_dim=64)
    assert [padding_for(b16, multiple) for multiple in (8, 64)] == [None, None]


@pytest.mark.parametrize("widths", [(52, 52), (52, 48), (52, 57), (51, 56), (0, 8)])
def test_widths_without_pads_in_both_halves_are_refused(widths: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected even head widths, the padded one greater"):
        HeadPadding(head_dim=widths[0], padded=widths[1])


@pytest.mark.parametrize("multiple", [0, -8, 7, 128])
def test_a_multiple_that_no_kernel_wants_is_refused(multiple: int) -> None:
    with pytest.raises(UsageError, match=r"head multiple is .*; choose one of 1, 8, 16, 32, 64"):
        check_multiple(multiple)
