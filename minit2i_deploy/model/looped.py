"""The double block inside Looped-DiT's loop: joint attention without a token's own value.

Source: Looped-DiT, arXiv 2609.40305. Exclusive self-attention, its XSA, removes from what a token
reads the part that lies along the token's own value vector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model.blocks import DoubleBlock
from minit2i_deploy.model.layers import RMSNorm, add_to_stream

# The official code divides a value by max(its norm, 1e-12); this is the square of that bound.
_MIN_SQUARE = 1e-24


def exclusive_attention(out: Tensor, values: Tensor) -> Tensor:
    """Attention's output less its projection onto each token's own value.

    Args:
        out: [..., K], what a head's attention gives each token.
        values: [..., K], the token's own value in that head, neither normalized nor rotated.

    Returns:
        out - v (out . v) / (v . v) in ``out``'s type, computed in float32; out where v is zero.
    """
    wide, own = out.float(), values.float()
    along = (wide * own).sum(-1, keepdim=True)
    square = (own * own).sum(-1, keepdim=True).clamp(min=_MIN_SQUARE)
    return (wide - own * (along / square)).to(out.dtype)


class LoopedBlock(DoubleBlock):
    """A double block with exclusive attention and optional gates, as the configuration says."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        assert config.loop is not None
        self.use_xsa = config.loop.use_xsa
        self.use_attn_gate = config.loop.use_attn_gate
        if self.use_attn_gate:
            self.img_gate = nn.Linear(config.hidden_size, config.num_heads)
            self.txt_gate = nn.Linear(config.hidden_size, config.num_heads)

    def forward(
        self, img_BND: Tensor, txt_BLD: Tensor, img_rotary: Tensor, txt_rotary: Tensor
    ) -> tuple[Tensor, Tensor]:
        heads, length = self.heads, txt_BLD.shape[1]
        q_i, k_i, v_i = self._qkv(img_BND, self.img_norm1, self.img_qkv, img_rotary)
        q_t, k_t, v_t = self._qkv(txt_BLD, self.txt_norm1, self.txt_qkv, txt_rotary)
        q, k, v = (heads.join(t, i) for t, i in ((q_t, q_i), (k_t, k_i), (v_t, v_i)))
        attended = heads.attend(q, k, v)
        if self.use_xsa:
            by_head = attended.unflatten(-1, (-1, heads.head_dim))
            attended = exclusive_attention(by_head, heads.by_token(v)).flatten(2)
        txt, img = attended[:, :length], attended[:, length:]
        if self.use_attn_gate:
            txt = self._gated(txt, txt_BLD, self.txt_norm1, self.txt_gate)
            img = self._gated(img, img_BND, self.img_norm1, self.img_gate)
        txt_BLD = add_to_stream(txt_BLD, self.txt_attn_proj(txt))
        txt_BLD = add_to_stream(txt_BLD, self.txt_mlp(self.txt_norm2(txt_BLD)))
        return self._image_update(img_BND, img), txt_BLD

    def _gated(self, attended: Tensor, stream: Tensor, norm: RMSNorm, gate: nn.Linear) -> Tensor:
        """Each head times its gate, which reads the block's normalized input."""
        share = torch.sigmoid(gate(norm(stream))).unsqueeze(-1)
        return (attended.unflatten(-1, (-1, self.heads.head_dim)) * share).flatten(2)
