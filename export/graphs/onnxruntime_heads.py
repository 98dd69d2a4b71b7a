"""Attention and rotation in ONNX Runtime's private operators, for its own providers alone.

Its RotaryEmbedding is one pass in place of six nodes. Its MultiHeadAttention reads and writes
[batch, tokens, heads * head width] like the projections, so nothing is transposed. On the CPU it
works on blocks of the scores where the standard Attention writes all of them to memory first, and
on CUDA it takes flash attention in fp16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from minit2i_deploy.model.blocks import DoubleBlock, TextBlock
from minit2i_deploy.model.heads import Heads

_DOMAIN: Final = "com.microsoft"
_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class OnnxRuntimeHeads(Heads):
    """Heads as [B, N, H, K]. For export only: torch cannot run its operators."""

    def split(self, qkv_BNX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A fused projection laid out [3, H, K] as q, k and v of [B, N, H, K]."""
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in qkv_BNX.chunk(3, dim=-1))
        return q, k, v

    def rotate(self, x_BNHK: Tensor, rotary_2NK: Tensor) -> Tensor:
        """As ``Heads.rotate``; the operator reads the angles of each pair once."""
        cos, sin = rotary_2NK[..., : self.head_dim // 2].to(x_BNHK.dtype).unbind(0)
        start = torch.zeros(1, dtype=torch.int64)
        (rotated,) = operator("RotaryEmbedding", (x_BNHK.flatten(2), start, cos, sin), {})
        return rotated.unflatten(-1, (-1, self.head_dim))

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Both sequences, one after the other."""
        return torch.cat([first, second], dim=1)

    def attend(self, q_BNHK: Tensor, k_BMHK: Tensor, v_BMHK: Tensor) -> Tensor:
        """Full softmax attention; returns [B, N, H * K]."""
        inputs = tuple(part.flatten(2) for part in (q_BNHK, k_BMHK, v_BMHK))
        scale = {} if self.scale is None else {"scale": self.scale}
        attributes = {"num_heads": q_BNHK.shape[2], **scale}
        (out,) = operator("MultiHeadAttention", inputs, attributes)
        return out

    def by_token(self, x_BNHK: Tensor) -> Tensor:
        """Values as [B, N, H, K], which they are."""
        return x_BNHK


def use_onnxruntime_heads(net: nn.Module) -> None:
    """Replace the heads of every block of a network, or of a part of one, in place."""
    for module in net.modules():
        if isinstance(module, TextBlock | DoubleBlock):
            heads = module.heads
            module.heads = OnnxRuntimeHeads(head_dim=heads.head_dim, scale=heads.scale)


def operator(
    name: str, inputs: tuple[Tensor, ...], attributes: Mapping[str, Any], num_outputs: int = 1
) -> tuple[Tensor, ...]:
    """A node of onnxruntime's own whose outputs are of the first input's type and shape."""
    return tuple(
        torch.onnx.ops.symbolic_multi_out(
            f"{_DOMAIN}::{name}",
            inputs,
            dict(attributes),
            dtypes=[inputs[0].dtype] * num_outputs,
            shapes=[inputs[0].shape] * num_outputs,
            version=_VERSION,
        )
    )
