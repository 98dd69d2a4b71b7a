"""Layers of MM-JiT. Shapes: B batch, N tokens, D width, H heads, K head width.

Source: minit2i-jax main, models/mmjit.py; parameter names are the Hub release's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minit2i_deploy.model.cpu_attention import plain_attention, wants_plain_products

NORM_EPS = 1e-6


def stream_dtype(weights: torch.dtype) -> torch.dtype:
    """Type of the sums that run through all blocks, by the type of a network's weights.

    bfloat16 keeps 8 bits, and rounding the sums after every block costs far more than rounding
    what the layers read. float16 has three bits more and keeps its own sums.
    """
    return torch.float32 if weights == torch.bfloat16 else weights


def as_stream(values: Tensor, weights: torch.dtype) -> Tensor:
    """What such a sum begins with. Under autocast, where weights are float32, it stays as it is."""
    return values.to(torch.float32) if weights == torch.bfloat16 else values


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, with a weight. Statistics are taken in float32.

    Of a float32 sum in a bfloat16 network the result is bfloat16, as the layers read it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = NORM_EPS

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        return normed.to(torch.bfloat16) if self.weight.dtype == torch.bfloat16 else normed


def add(stream: Tensor, update: Tensor) -> Tensor:
    """The sum in the stream's own type."""
    return stream + update.to(stream.dtype)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), no biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x_BND)) * self.w3(x_BND))


def rotate(x_BHNK: Tensor, rotary_2NK: Tensor) -> Tensor:
    """Turn pairs (i, i + K/2) of every head by the position's angles (rotate-half form)."""
    cos, sin = rotary_2NK.to(x_BHNK.dtype).unbind(0)
    first, second = x_BHNK.chunk(2, dim=-1)
    return x_BHNK * cos + torch.cat([-second, first], dim=-1) * sin


def split_heads(qkv_BNX: Tensor, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split a fused projection laid out [3, heads, head_dim] into q, k, v of [B, H, N, K]."""
    batch, tokens, width = qkv_BNX.shape
    qkv = qkv_BNX.reshape(batch, tokens, 3, width // (3 * head_dim), head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def attend(q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, scale: float | None = None) -> Tensor:
    """Full softmax attention with scale K**-0.5 unless another is given; returns [B, N, H * K]."""
    if wants_plain_products(q_BHNK):
        scale = q_BHNK.shape[-1] ** -0.5 if scale is None else scale
        out = plain_attention(q_BHNK, k_BHMK, v_BHMK, scale)
    else:
        out = F.scaled_dot_product_attention(q_BHNK, k_BHMK, v_BHMK, scale=scale)
    batch, heads, tokens, head_dim = out.shape
    return out.transpose(1, 2).reshape(batch, tokens, heads * head_dim)
