"""Transformer blocks of MM-JiT: text-only (adapter) and double-stream (joint attention)."""

from __future__ import annotations

from torch import Tensor, nn

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model.heads import Heads
from minit2i_deploy.model.layers import RMSNorm, SwiGLU, add_to_stream


class TextBlock(nn.Module):
    """Pre-norm self-attention with 1D rotary positions, followed by SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, head_dim = config.hidden_size, config.head_dim
        self.heads = Heads(head_dim=head_dim)
        self.norm1 = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = RMSNorm(head_dim)
        self.k_norm = RMSNorm(head_dim)
        self.attn_proj = nn.Linear(width, width)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width, config.mlp_hidden_size)

    def forward(self, txt_BLD: Tensor, rotary_2LK: Tensor) -> Tensor:
        heads = self.heads
        q, k, v = heads.split(self.qkv(self.norm1(txt_BLD)))
        q, k = heads.rotate(self.q_norm(q), rotary_2LK), heads.rotate(self.k_norm(k), rotary_2LK)
        txt_BLD = add_to_stream(txt_BLD, self.attn_proj(heads.attend(q, k, v)))
        return add_to_stream(txt_BLD, self.mlp(self.norm2(txt_BLD)))


class DoubleBlock(nn.Module):
    """Two streams with their own weights and one attention over [text, image].

    q_norm and k_norm are shared by both streams. In the last block of the network nothing reads
    the text stream afterwards: ``forward_last`` leaves its queries, projection and MLP out. Those
    weights are part of it, because official checkpoints have them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, head_dim, hidden = config.hidden_size, config.head_dim, config.mlp_hidden_size
        self.heads = Heads(head_dim=head_dim)
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

    def _qkv(
        self, stream: Tensor, norm: RMSNorm, qkv: nn.Linear, rotary: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.heads
        q, k, v = heads.split(qkv(norm(stream)))
        return heads.rotate(self.q_norm(q), rotary), heads.rotate(self.k_norm(k), rotary), v

    def _image_update(self, img_BND: Tensor, attended: Tensor) -> Tensor:
        img_BND = add_to_stream(img_BND, self.img_attn_proj(attended))
        return add_to_stream(img_BND, self.img_mlp(self.img_norm2(img_BND)))

    def forward(
        self, img_BND: Tensor, txt_BLD: Tensor, img_rotary: Tensor, txt_rotary: Tensor
    ) -> tuple[Tensor, Tensor]:
        q_i, k_i, v_i = self._qkv(img_BND, self.img_norm1, self.img_qkv, img_rotary)
        q_t, k_t, v_t = self._qkv(txt_BLD, self.txt_norm1, self.txt_qkv, txt_rotary)
        join = self.heads.join
        attended = self.heads.attend(join(q_t, q_i), join(k_t, k_i), join(v_t, v_i))
        length = txt_BLD.shape[1]
        txt_BLD = add_to_stream(txt_BLD, self.txt_attn_proj(attended[:, :length]))
        txt_BLD = add_to_stream(txt_BLD, self.txt_mlp(self.txt_norm2(txt_BLD)))
        return self._image_update(img_BND, attended[:, length:]), txt_BLD

    def forward_last(
        self, img_BND: Tensor, txt_BLD: Tensor, img_rotary: Tensor, txt_rotary: Tensor
    ) -> Tensor:
        """Image stream only; the same values as ``forward(...)[0]``."""
        q_i, k_i, v_i = self._qkv(img_BND, self.img_norm1, self.img_qkv, img_rotary)
        # Nothing reads the text's queries, so an exported graph has none of their arithmetic.
        _, k_t, v_t = self._qkv(txt_BLD, self.txt_norm1, self.txt_qkv, txt_rotary)
        k, v = self.heads.join(k_t, k_i), self.heads.join(v_t, v_i)
        attended = self.heads.attend(q_i, k, v)
        return self._image_update(img_BND, attended)
