"""`Heads`: split, rotate, join and attend.

Shapes: B batch, N and M tokens, X width of a projection, H heads, K head width.
Source: minit2i-jax main, models/mmjit.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from minit2i_deploy.model.cpu_attention import plain_attention, use_plain_products


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Heads as [B, H, N, K] and torch's attention.

    Export may replace it by a class with another layout between these calls, as long as the last
    axis is K where a norm reads it.

    Args:
        head_dim: K.
        scale: of the scores; None is K**-0.5. Padded heads set their own.
    """

    head_dim: int
    scale: float | None = None

    def split(self, qkv_BNX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split a fused projection, laid out [3, H, K], into q, k and v of [B, H, N, K]."""
        batch, tokens, width = qkv_BNX.shape
        heads = width // (3 * self.head_dim)
        qkv = qkv_BNX.reshape(batch, tokens, 3, heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def rotate(self, x_BHNK: Tensor, rotary_2NK: Tensor) -> Tensor:
        """Rotate pairs (i, i + K/2) of every head by the position's angles (rotate-half form)."""
        cos, sin = rotary_2NK.to(x_BHNK.dtype).unbind(0)
        first, second = x_BHNK.chunk(2, dim=-1)
        return x_BHNK * cos + torch.cat([-second, first], dim=-1) * sin

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Concatenate along the tokens."""
        return torch.cat([first, second], dim=2)

    def attend(self, q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor) -> Tensor:
        """Full softmax attention; returns [B, N, H * K]."""
        if use_plain_products(q_BHNK):
            scale = self.head_dim**-0.5 if self.scale is None else self.scale
            out = plain_attention(q_BHNK, k_BHMK, v_BHMK, scale)
        else:
            out = F.scaled_dot_product_attention(q_BHNK, k_BHMK, v_BHMK, scale=self.scale)
        batch, heads, tokens, head_dim = out.shape
        return out.transpose(1, 2).reshape(batch, tokens, heads * head_dim)

    def by_token(self, x_BHNK: Tensor) -> Tensor:
        """Values as [B, N, H, K], the layout of ``attend``'s result with its heads split."""
        return x_BHNK.transpose(1, 2)
