"""Looped-DiT's network against outputs of its own code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from minit2i_deploy.checkpoints import canonical_shapes
from minit2i_deploy.config import LOOPED_VARIANTS, VARIANTS, ModelConfig
from minit2i_deploy.errors import CheckpointError, UsageError
from minit2i_deploy.flops import denoiser_flops
from minit2i_deploy.loop_config import LoopConfig
from minit2i_deploy.model import MMJiT, Step, build_network
from minit2i_deploy.model.blocks import DoubleBlock
from minit2i_deploy.model.loop import run_table
from minit2i_deploy.model.looped import LoopedBlock, exclusive_attention
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.looped import looped_arrays, looped_checkpoint

# Measured 5.4e-6 on outputs up to 6.6; one float32 evaluation is itself 5e-6 from float64.
MAX_ABS_ERROR = 1e-5


def images(array: np.ndarray) -> Tensor:
    """Golden images, [batch, height, width, channels], as the network takes them."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))


def error(net: MMJiT, expected: np.ndarray, loops: int | None, mask: np.ndarray | None = None):
    golden, rows = looped_arrays("forward"), len(expected)
    mask = golden["mask"] if mask is None else mask
    with torch.inference_mode():
        x0 = net(
            images(golden["img"][:rows]),
            torch.from_numpy(golden["context"][:rows]),
            torch.from_numpy(mask[:rows]),
            loops=loops,
        )
    return float((x0 - images(expected)).abs().max())


@pytest.fixture(scope="module")
def net() -> MMJiT:
    return build_network(looped_checkpoint())


@pytest.mark.parametrize("loops", [1, 2, 3, 4, 5])
def test_every_number_of_loops(net: MMJiT, loops: int) -> None:
    expected = looped_arrays("forward")[f"out_ema_loops_{loops}"]
    assert error(net, expected, loops) <= MAX_ABS_ERROR


def test_without_loops_it_is_the_checkpoints_number(net: MMJiT) -> None:
    golden = looped_arrays("forward")
    assert error(net, golden["out_ema_loops_3"], None) <= MAX_ABS_ERROR
    assert error(net, golden["out_ema_loops_2"], None) > 1
    zeros = np.zeros_like(golden["mask"])
    assert error(net, golden["out_ema_nullmask"], None, zeros) <= MAX_ABS_ERROR


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_gated_attention(loops: int) -> None:
    gated = build_network(looped_checkpoint("gate"))
    expected = looped_arrays("forward_gate")[f"out_ema_loops_{loops}"]
    assert error(gated, expected, loops) <= MAX_ABS_ERROR


def test_gated_and_exclusive_attention() -> None:
    checkpoint = looped_checkpoint("gate")
    loop = dataclasses.replace(checkpoint.config.loop, use_xsa=True)
    config = dataclasses.replace(checkpoint.config, loop=loop)
    both = build_network(dataclasses.replace(checkpoint, config=config))
    expected = looped_arrays("forward_gate")["out_ema_with_xsa_too"]
    assert error(both, expected, None) <= MAX_ABS_ERROR


@pytest.mark.parametrize("loops", [1, 2])
def test_a_core_for_each_pass(loops: int) -> None:
    untied = build_network(looped_checkpoint("untied"))
    expected = looped_arrays("forward_untied")[f"out_ema_loops_{loops}"]
    assert error(untied, expected, loops) <= MAX_ABS_ERROR


def test_exclusive_attention_alone() -> None:
    golden = {name: torch.from_numpy(value) for name, value in looped_arrays("xsa").items()}
    actual = exclusive_attention(golden["out"], golden["v"])
    # Measured 1.2e-7, on values up to 3.4; one row of values is zero and one is below 1e-12.
    assert (actual - golden["result"]).abs().max() <= 5e-7
    half = exclusive_attention(golden["out_bf16"].bfloat16(), golden["v_bf16"].bfloat16())
    assert half.dtype == torch.bfloat16
    # The official result is rounded from values that differ in their last bits.
    assert torch.allclose(half.float(), golden["result_bf16"], rtol=2**-7, atol=1e-6)


def test_trajectory_of_the_official_sampler(net: MMJiT) -> None:
    golden = looped_arrays("sampler_euler")
    context, mask = (torch.from_numpy(golden[name]) for name in ("context", "mask"))
    with torch.inference_mode():
        conditional = net.text_adapter(context, mask)
        tokens = torch.stack([conditional, net.text_adapter(context, torch.zeros_like(mask))])
    table = solver_table("euler", steps=6, a_min=float(golden["a_min"]))
    guidance = float(golden["cfg_scale"])
    states = run_table(Step(net.denoiser), images(golden["x"][0]), tokens, table, guidance)
    for (x, _), expected in zip(states, golden["x"][1:], strict=True):
        # Measured 3.2e-5; the diffusers port's own states are 2.8e-5 from these.
        assert (x - images(expected)).abs().max() <= 2e-4


def test_wrong_numbers_of_loops(net: MMJiT) -> None:
    golden = looped_arrays("forward")["out_ema_loops_1"]
    with pytest.raises(UsageError, match="loops: expected a positive integer, got 0"):
        error(net, golden, 0)
    untied = build_network(looped_checkpoint("untied"))
    with pytest.raises(UsageError, match="weights for 2 passes of its core; choose 1 to 2"):
        error(untied, golden, 3)
    plain = ModelConfig.from_dict(
        {k: v for k, v in looped_checkpoint().config.to_dict().items() if k != "loop"}
    )
    with pytest.raises(UsageError, match="this network has no loop"):
        plain.block_order(2)


def test_the_loop_as_data() -> None:
    config = looped_checkpoint().config
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert config.block_order(2) == (0, 1, 2, 1, 2, 3)
    assert looped_checkpoint("untied").config.block_order() == (0, 1, 2, 3, 4, 5)
    with pytest.raises(CheckpointError, match="depth_double is 5, but the loop has 4 blocks"):
        dataclasses.replace(config, depth_double=5)
    with pytest.raises(CheckpointError, match="num_loops is 3, but the core has 2 sets"):
        LoopConfig(pre=1, core=2, post=1, num_loops=3, num_copies=2)
    with pytest.raises(CheckpointError, match=r"loop\.post must be a positive integer, got 0"):
        LoopConfig(pre=1, core=2, post=0, num_loops=3)
    with pytest.raises(CheckpointError, match="use_xsa must be true or false, got 1"):
        LoopConfig(pre=1, core=2, post=1, num_loops=3, use_xsa=1)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="config: loop is"):
        ModelConfig.from_dict(config.to_dict() | {"loop": {"pre": 1}})


@pytest.mark.parametrize(
    ("name", "published"),
    # Counted by its authors, with the embedders that reach no output.
    [("looped-b-32", 260_189_568), ("looped-b-16", 258_122_880), ("looped-l-16", 911_766_696)],
)
def test_parameters_of_the_published_networks(name: str, published: int) -> None:
    config = LOOPED_VARIANTS[name]
    used = sum(int(np.prod(shape)) for shape in canonical_shapes(config).values())
    unused = config.hidden_size * (256 + 1 + config.hidden_size + 1 + config.txt_input_size)
    assert used + unused == published
    with torch.device("meta"):
        network = MMJiT(config)
    blocks = [type(block) for block in network.denoiser.double_blocks]
    assert blocks.count(LoopedBlock) == config.loop.core
    assert isinstance(network.denoiser.double_blocks[-1], DoubleBlock)


def test_arithmetic_grows_by_the_core() -> None:
    config = LOOPED_VARIANTS["looped-b-16"]
    passes = [denoiser_flops(config.with_loops(n)) for n in (1, 2, 4)]
    assert passes[0] == denoiser_flops(VARIANTS["b-16"])
    assert passes[2] - passes[1] == 2 * (passes[1] - passes[0]) > 0
