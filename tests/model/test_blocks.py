"""Blocks and layers against independent forms, at head widths of every variant."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model.blocks import DoubleBlock, TextBlock
from minit2i_deploy.model.heads import Heads
from minit2i_deploy.model.layers import RMSNorm, SwiGLU
from minit2i_deploy.model.mmjit import MMJiT, PatchEmbed
from minit2i_deploy.model.positions import image_rotary, text_rotary

# float32 against float64; measured 1.9e-6 at most.
MAX_ABS_ERROR = 1e-5


def config(num_heads: int, head_dim: int) -> ModelConfig:
    return ModelConfig(
        image_size=24,
        patch_size=8,
        hidden_size=num_heads * head_dim,
        num_heads=num_heads,
        head_dim=head_dim,
        depth_double=2,
        pca_channels=8,
        txt_input_size=24,
        prompt_length=7,
    )


# 52 is L/16's: no power of two, and its quarter is odd.
CONFIGS = [config(2, 16), config(2, 52), config(1, 64)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Random values in every parameter, so that no norm weight or bias hides."""
    generator = torch.Generator().manual_seed(1)
    for value in module.parameters():
        centre = 1.0 if value.ndim == 1 else 0.0
        size = 0.3 if value.ndim == 1 else value.shape[-1] ** -0.5
        value.data = centre + size * torch.randn(value.shape, generator=generator)
    return module.requires_grad_(False)


def tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    return (
        torch.from_numpy(image_rotary(config.patch_grid, config.head_dim)),
        torch.from_numpy(text_rotary(config.prompt_length, config.head_dim)),
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.num_heads}x{c.head_dim}")
def test_the_last_block_gives_the_same_image_stream(config: ModelConfig) -> None:
    block = shaken(DoubleBlock(config))
    img = normal(2, config.num_image_tokens, config.hidden_size)
    txt = normal(2, config.prompt_length, config.hidden_size, seed=1)
    whole, _ = block(img, txt, *tables(config))
    alone = block.forward_last(img, txt, *tables(config))
    assert (whole - alone).abs().max() <= 1e-5  # measured 0


def attention_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.softmax(torch.einsum("bhnk,bhmk->bhnm", q, k) / q.shape[-1] ** 0.5, dim=-1)
    return torch.einsum("bhnm,bhmk->bnhk", weights, v).flatten(2)


def norm_by_hand(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.num_heads}x{c.head_dim}")
def test_both_streams_attend_to_text_then_image(config: ModelConfig) -> None:
    block = shaken(DoubleBlock(config)).double()
    img = normal(2, config.num_image_tokens, config.hidden_size).double()
    txt = normal(2, config.prompt_length, config.hidden_size, seed=1).double()
    img_table, txt_table = (table.double() for table in tables(config))
    heads = (3, config.num_heads, config.head_dim)
    streams = []
    for x, prefix, table in ((txt, "txt", txt_table), (img, "img", img_table)):
        normed = norm_by_hand(x, getattr(block, f"{prefix}_norm1").weight)
        projection = getattr(block, f"{prefix}_qkv")
        qkv = (normed @ projection.weight.T + projection.bias).unflatten(-1, heads)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q = block.heads.rotate(norm_by_hand(q, block.q_norm.weight), table)
        k = block.heads.rotate(norm_by_hand(k, block.k_norm.weight), table)
        streams.append((q, k, v))
    attended = attention_by_hand(*(torch.cat(parts, 2) for parts in zip(*streams, strict=True)))
    split = attended.split([txt.shape[1], img.shape[1]], dim=1)
    expected = []
    for x, prefix, part in ((img, "img", split[1]), (txt, "txt", split[0])):
        projection = getattr(block, f"{prefix}_attn_proj")
        x = x + part @ projection.weight.T + projection.bias
        normed = norm_by_hand(x, getattr(block, f"{prefix}_norm2").weight)
        mlp = getattr(block, f"{prefix}_mlp")
        gate = normed @ mlp.w1.weight.T
        expected.append(
            x + (gate * torch.sigmoid(gate) * (normed @ mlp.w3.weight.T)) @ mlp.w2.weight.T
        )
    actual = block.float()(img.float(), txt.float(), *tables(config))
    for value, oracle in zip(actual, expected, strict=True):
        assert (value - oracle).abs().max() <= MAX_ABS_ERROR


def test_fused_projections_are_query_key_value_then_heads() -> None:
    qkv = torch.arange(24.0).reshape(1, 1, 24)
    q, k, v = Heads(head_dim=4).split(qkv)
    assert q.shape == (1, 2, 1, 4)
    assert [part[0, head, 0, 0].item() for part in (q, k, v) for head in (0, 1)] == [
        0.0,
        4.0,
        8.0,
        12.0,
        16.0,
        20.0,
    ]


def test_attention_is_full_softmax() -> None:
    q, k, v = (normal(2, 3, 5, 8, seed=seed) for seed in range(3))
    actual = Heads(head_dim=8).attend(q, k, v)
    assert (actual - attention_by_hand(q.double(), k.double(), v.double())).abs().max() <= 2e-6


def test_half_precision_norms_take_their_statistics_in_float32() -> None:
    norm = RMSNorm(512)
    large = torch.full((1, 512), 300.0, dtype=torch.float16)
    assert (norm(large) - 1).abs().max() <= 1e-3  # 300 squared is beyond float16


def test_the_text_block_does_not_mix_pictures_of_a_batch() -> None:
    block = shaken(TextBlock(CONFIGS[0]))
    txt = normal(2, 7, 32)
    _, table = tables(CONFIGS[0])
    both = block(txt, table)
    assert (both[:1] - block(txt[:1], table)).abs().max() <= 1e-5  # measured 1.1e-6


def test_the_gate_is_the_first_matrix() -> None:
    mlp = SwiGLU(1, 1).requires_grad_(False)
    for name, value in (("w1", 2.0), ("w3", 3.0), ("w2", 5.0)):
        getattr(mlp, name).weight.fill_(value)
    gate = 2.0 / (1 + torch.exp(torch.tensor(-2.0)))
    assert mlp(torch.ones(1, 1)).item() == pytest.approx(gate.item() * 3 * 5, rel=1e-6)


def test_masked_positions_do_not_matter_but_their_token_does() -> None:
    net = shaken(MMJiT(CONFIGS[1]))
    x, context = normal(1, 3, 24, 24), normal(1, 7, 24)
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    other = torch.where(mask.bool().unsqueeze(-1), context, torch.full_like(context, 9.0))
    assert torch.equal(net(x, context, mask), net(x, other, mask))
    before = net(x, context, mask)
    net.text_adapter.mask_token += 1
    assert (net(x, context, mask) - before).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_patches_are_embedded_as_the_official_convolutions_do(dtype: torch.dtype) -> None:
    """The same sums in another order; measured 1.2e-7 and 2.2e-16 of the largest output."""
    torch.manual_seed(0)
    embed = PatchEmbed(config(2, 16)).to(dtype)
    x = normal(3, 3, 24, 40).to(dtype)
    reduced = F.conv2d(x, embed.proj1.weight, stride=8)
    expected = F.conv2d(reduced, embed.proj2.weight, embed.proj2.bias).flatten(2).transpose(1, 2)
    actual = embed(x)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 8 * torch.finfo(dtype).eps * expected.abs().max()
