"""The T5 encoder in torch, so that the torch runtime does not need transformers.

Shapes: B batch, N tokens, H heads, K head width. Parameter names are the Hugging Face ones.
Source: T5, Raffel et al. 1910.10683; gated GELU of T5 1.1 as FLAN-T5 uses it. No bias, no
attention scale, one relative position table shared by all layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class T5Config:
    """Sizes of a T5 encoder, named as in its config.json."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6


class _Norm(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.eps = config.layer_norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _SelfAttention(nn.Module):
    def __init__(self, config: T5Config, has_table: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)
        if has_table:
            self.relative_attention_bias = nn.Embedding(
                config.relative_attention_num_buckets, config.num_heads
            )

    def forward(self, x_BND: Tensor, bias_BHNN: Tensor) -> Tensor:
        heads = (self.num_heads, -1)
        q, k, v = (
            part(x_BND).unflatten(2, heads).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        # T5 has no scale: the initialization of its q holds it.
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_BHNN, scale=1.0)
        return self.o(out.transpose(1, 2).flatten(2))


class _GatedGelu(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # The tanh form is what a T5 configuration calls gelu_new.
        return self.wo(F.gelu(self.wi_0(x), approximate="tanh") * self.wi_1(x))


class _AttentionLayer(nn.Module):
    def __init__(self, config: T5Config, has_table: bool) -> None:
        super().__init__()
        self.SelfAttention = _SelfAttention(config, has_table)
        self.layer_norm = _Norm(config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        return x + self.SelfAttention(self.layer_norm(x), bias)


class _FeedForwardLayer(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = _GatedGelu(config)
        self.layer_norm = _Norm(config)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.DenseReluDense(self.layer_norm(x))


class _Block(nn.Module):
    def __init__(self, config: T5Config, has_table: bool) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_AttentionLayer(config, has_table), _FeedForwardLayer(config)])

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        attention, feed_forward = self.layer
        return feed_forward(attention(x, bias))


class _Stack(nn.Module):
    def __init__(self, config: T5Config) -> None:
        super().__init__()
        # Hugging Face stores the table that all layers share with the first.
        self.block = nn.ModuleList(_Block(config, i == 0) for i in range(config.num_layers))
        self.final_layer_norm = _Norm(config)


class T5Encoder(nn.Module):
    """Token ids and their mask to hidden states."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = _Stack(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode; int64 [B, N] ids and mask to [B, N, d_model]."""
        x = self.shared(input_ids)
        table = self.encoder.get_submodule("block.0.layer.0.SelfAttention.relative_attention_bias")
        tokens = input_ids.shape[1]
        position = torch.arange(tokens, device=input_ids.device)
        distance = position[None, :] - position[:, None]
        bias = table(_bucket(distance, self.config)).permute(2, 0, 1)[None]
        hidden = (attention_mask == 0)[:, None, None, :]
        # The least number and not -inf, which makes NaN of a text that is masked everywhere.
        bias = bias.masked_fill(hidden, torch.finfo(bias.dtype).min)
        for block in self.encoder.block:
            x = block(x, bias)
        return self.encoder.final_layer_norm(x)


def _bucket(distance: Tensor, config: T5Config) -> Tensor:
    """Bidirectional buckets: half for each sign, exact up to a quarter, logarithmic above."""
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    size = distance.abs()
    scale = (half - exact) / math.log(config.relative_attention_max_distance / exact)
    # A distance of 0 is exact below, but where() computes both sides and log(0) is no integer.
    far = exact + (torch.log(size.clamp(min=1).float() / exact) * scale).to(torch.int64)
    bucket = torch.where(size < exact, size, far.clamp(max=half - 1))
    return bucket + half * (distance > 0)
