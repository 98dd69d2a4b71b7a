"""Transformer blocks of MM-JiT: text-only (adapter) and double-stream (joint attention)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model.layers import RMSNorm, SwiGLU, add, attend, rotate, split_heads


class TextBlock(nn.Module):
    """Pre-norm self-attention with 1D rotary positions, then SwiGLU.

    ``softmax_scale`` is None for head_dim**-0.5; another only where heads are padded.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, head_dim = config.hidden_size, config.head_dim
        self.head_dim = head_dim
        self.softmax_scale: float | None = None
        self.norm1 = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)
        self.attn_proj = nn.Linear(width, width)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width, config.mlp_hidden_size)

    def forward(self, txt_BLD: Tensor, rotary_2LK: Tensor) -> Tensor:
        q, k, v = split_heads(self.qkv(self.norm1(txt_BLD)), self.head_dim)
        q, k = rotate(self.q_norm(q), rotary_2LK), rotate(self.k_norm(k), rotary_2LK)
        txt_BLD = add(txt_BLD, self.attn_proj(attend(q, k, v, self.softmax_scale)))
        return add(txt_BLD, self.mlp(self.norm2(txt_BLD)))


class DoubleBlock(nn.Module):
    """Two streams with their own weights and one attention over [text, image].

    q_norm and k_norm are shared by both streams. In the last block of the network nothing reads
    the text stream afterwards: ``forward_last`` leaves its queries, projection and MLP out. Those
    weights are kept, because official checkpoints carry them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, head_dim, hidden = config.hidden_size, config.head_dim, config.mlp_hidden_size
        self.head_dim = head_dim
        self.softmax_scale: float | None = None
        self.img_norm1 = RMSNorm(width)
        self.txt_norm1 = RMSNorm(width)
        self.img_qkv = nn.Linear(width, 3 * width)
        self.txt_qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)
        self.img_attn_proj = nn.Linear(width, width)
        self.txt_attn_proj = nn.Linear(width, width)
        self.img_norm2 = RMSNorm(width)
        self.txt_norm2 = RMSNorm(width)
        self.img_mlp = SwiGLU(width, hidden)
        self.txt_mlp = SwiGLU(width, hidden)

    def _heads(
        self, stream: Tensor, norm: RMSNorm, qkv: nn.Linear, rotary: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_heads(qkv(norm(stream)), self.head_dim)
        return rotate(self.q_norm(q), rotary), rotate(self.k_norm(k), rotary), v

    def _image_update(self, img_BND: Tensor, attended: Tensor) -> Tensor:
        img_BND = add(img_BND, self.img_attn_proj(attended))
        return add(img_BND, self.img_mlp(self.img_norm2(img_BND)))

    def forward(
        self, img_BND: Tensor, txt_BLD: Tensor, img_rotary: Tensor, txt_rotary: Tensor
    ) -> tuple[Tensor, Tensor]:
        q_i, k_i, v_i = self._heads(img_BND, self.img_norm1, self.img_qkv, img_rotary)
        q_t, k_t, v_t = self._heads(txt_BLD, self.txt_norm1, self.txt_qkv, txt_rotary)
        attended = attend(
            torch.cat([q_t, q_i], 2),
            torch.cat([k_t, k_i], 2),
            torch.cat([v_t, v_i], 2),
            self.softmax_scale,
        )
        length = txt_BLD.shape[1]
        txt_BLD = add(txt_BLD, self.txt_attn_proj(attended[:, :length]))
        txt_BLD = add(txt_BLD, self.txt_mlp(self.txt_norm2(txt_BLD)))
        return self._image_update(img_BND, attended[:, length:]), txt_BLD

    def forward_last(
        self, img_BND: Tensor, txt_BLD: Tensor, img_rotary: Tensor, txt_rotary: Tensor
    ) -> Tensor:
        """Image stream only; the same values as ``forward(...)[0]``."""
        q_i, k_i, v_i = self._heads(img_BND, self.img_norm1, self.img_qkv, img_rotary)
        _, k_t, v_t = self._heads(txt_BLD, self.txt_norm1, self.txt_qkv, txt_rotary)
        k, v = torch.cat([k_t, k_i], 2), torch.cat([v_t, v_i], 2)
        attended = attend(q_i, k, v, self.softmax_scale)
        return self._image_update(img_BND, attended)
