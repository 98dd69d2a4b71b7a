"""The sums that run through all blocks, by the type of a network's weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from minit2i_deploy.config import ModelConfig, StudentConfig
from minit2i_deploy.model import blocks
from minit2i_deploy.model.blocks import DoubleBlock, TextBlock
from minit2i_deploy.model.mmjit import MMJiT

CONFIG = ModelConfig(
    image_size=32,
    patch_size=8,
    hidden_size=64,
    num_heads=4,
    head_dim=16,
    depth_double=12,
    pca_channels=16,
    txt_input_size=24,
    prompt_length=7,
)
BATCH = 2


def network(config: ModelConfig = CONFIG) -> MMJiT:
    net = MMJiT(config)
    generator = torch.Generator().manual_seed(1)
    for value in net.parameters():
        size = 0.02 if value.ndim == 1 else value[0].numel() ** -0.5
        centre = 1.0 if value.ndim == 1 else 0.0
        value.data = centre + size * torch.randn(value.shape, generator=generator)
    return net.eval().requires_grad_(False)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(BATCH, 3, CONFIG.image_size, CONFIG.image_size, generator=generator)
    context = torch.randn(BATCH, CONFIG.prompt_length, CONFIG.txt_input_size, generator=generator)
    return x, context, torch.ones(BATCH, CONFIG.prompt_length, dtype=torch.int64)


def streams_of(net: MMJiT, *arguments: Tensor, **conditions: float) -> set[torch.dtype]:
    """Types of what the blocks read."""
    dtypes: set[torch.dtype] = set()

    def look(module: torch.nn.Module, values: tuple[Tensor, ...]) -> None:
        dtypes.update(
            value.dtype for value in values[: 2 if isinstance(module, DoubleBlock) else 1]
        )

    for module in net.modules():
        if isinstance(module, DoubleBlock | TextBlock):
            module.register_forward_pre_hook(look)
    net(*arguments, **conditions)
    return dtypes


@pytest.mark.parametrize(
    ("weights", "stream"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
        (torch.float32, torch.float32),
    ],
)
def test_a_bfloat16_network_sums_in_float32(weights: torch.dtype, stream: torch.dtype) -> None:
    x, context, mask = inputs()
    net = network().to(weights)
    assert streams_of(net, x.to(weights), context.to(weights), mask) == {stream}
    assert net(x.to(weights), context.to(weights), mask).dtype == weights


def test_a_students_prefix_is_summed_in_float32_too() -> None:
    x, context, mask = (v.to(torch.bfloat16) if v.is_floating_point() else v for v in inputs())
    config = ModelConfig(**{**vars_of(CONFIG), "student": StudentConfig()})
    conditions = {"h": 0.25, "omega": 3.0, "t_min": 0.2, "t_max": 0.8}
    assert streams_of(network(config).to(torch.bfloat16), x, context, mask, **conditions) == {
        torch.float32
    }


def vars_of(config: ModelConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_training_in_bfloat16_keeps_its_sums_as_they_were() -> None:
    """Autocast computes in bfloat16 on float32 weights; what it rounds is its own affair."""
    with torch.autocast("cpu", torch.bfloat16):
        assert streams_of(network(), *inputs()) == {torch.bfloat16}


def test_sums_that_are_rounded_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sums are large beside what a block adds, as they are in deep networks."""
    x, context, mask = inputs()
    net = network()
    net.denoiser.img_embedder.proj2.weight *= 16
    expected = net(x, context, mask)
    half = copy.deepcopy(net).to(torch.bfloat16)
    arguments = x.to(torch.bfloat16), context.to(torch.bfloat16), mask

    def error() -> float:
        return float((half(*arguments).to(torch.float32) - expected).norm() / expected.norm())

    exact = error()
    monkeypatch.setattr(
        blocks, "add_to_stream", lambda s, u: (s + u).to(torch.bfloat16).to(s.dtype)
    )
    # Measured 3.7e-3 and 6.2e-3.
    assert exact < 0.8 * error()
