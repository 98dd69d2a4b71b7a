"""The denoiser in few kernels of ONNX Runtime's CUDA provider, for its operators alone.

Each kernel costs a microsecond or two of a step's two milliseconds, whatever it computes. Here both
streams are joined before the heads are split, so that norms, rotation and attention run once for
text and image, and a residual sum, its bias and the norm that follows are one kernel.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minit2i_deploy.export.graphs.onnxruntime_heads import operator
from minit2i_deploy.model.blocks import DoubleBlock
from minit2i_deploy.model.layers import RMSNorm
from minit2i_deploy.model.mmjit import Denoiser

_SKIP_NORM: Final = "SkipSimplifiedLayerNormalization"
# Its first output is the norm, its fourth the sum; those between are for training.
_NORM, _SUM, _NUM_OUTPUTS = 0, 3, 4


class FusedDenoiser(Denoiser):
    """The modules of a denoiser, in another order of operators. For export only.

    Args:
        denoiser: whose blocks have ``OnnxRuntimeHeads`` and no loop; its modules are shared.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        nn.Module.__init__(self)
        self.config = denoiser.config
        for name, module in denoiser.named_children():
            self.add_module(name, module)
        for name, table in denoiser.named_buffers(recurse=False):
            self.register_buffer(name, table, persistent=False)

    def forward(self, x: Tensor, tokens: Tensor, loops: int | None = None) -> Tensor:
        """As ``Denoiser.forward``."""
        blocks = [block for block in self.double_blocks if isinstance(block, DoubleBlock)]
        *doubles, last = blocks
        img, img_normed = _add_and_norm(
            self.img_embedder(x), self.position_table.unsqueeze(0), blocks[0].img_norm1
        )
        txt, txt_normed = tokens, blocks[0].txt_norm1(tokens)
        image = torch.arange(txt.shape[1], txt.shape[1] + img.shape[1])
        text = torch.arange(txt.shape[1])
        for block, following in zip(doubles, blocks[1:], strict=True):
            q, k, v = self._qkv(block, txt_normed, img_normed)
            q = block.heads.rotate(block.q_norm(q), self._joint_rotary())
            attended = block.heads.attend(q, k, v)
            txt, txt_normed = _residual(
                txt, attended.index_select(1, text), block.txt_attn_proj, block.txt_norm2
            )
            img, img_normed = _residual(
                img, attended.index_select(1, image), block.img_attn_proj, block.img_norm2
            )
            txt, txt_normed = _add_and_norm(block.txt_mlp(txt_normed), txt, following.txt_norm1)
            img, img_normed = _add_and_norm(block.img_mlp(img_normed), img, following.img_norm1)
        q, k, v = self._qkv(last, txt_normed, img_normed)
        q = last.heads.rotate(last.q_norm(q.index_select(1, image)), self.img_rotary)
        attended = last.heads.attend(q, k, v)
        img, img_normed = _residual(img, attended, last.img_attn_proj, last.img_norm2)
        _, img_normed = _add_and_norm(last.img_mlp(img_normed), img, self.final_layer.norm_final)
        return self._unpatchify(self.final_layer.linear(img_normed), x)

    def _qkv(self, block: DoubleBlock, txt: Tensor, img: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of [text, image] without norm and rotation, keys with both, and values."""
        joint = torch.cat([block.txt_qkv(txt), block.img_qkv(img)], dim=1)
        q, k, v = block.heads.split(joint)
        return q, block.heads.rotate(block.k_norm(k), self._joint_rotary()), v

    def _joint_rotary(self) -> Tensor:
        # Of constants: onnxruntime joins them once, when it opens the graph.
        return torch.cat([self.txt_rotary, self.img_rotary], dim=1)


def _residual(
    stream: Tensor, attended: Tensor, projection: nn.Linear, norm: RMSNorm
) -> tuple[Tensor, Tensor]:
    """The stream with attention's output added, and its norm."""
    update = F.linear(attended, projection.weight)
    return _add_and_norm(update, stream, norm, projection.bias)


def _add_and_norm(
    update: Tensor, stream: Tensor, norm: RMSNorm, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of update, stream and bias, which has the update's shape, and its norm."""
    inputs = (update, stream, norm.weight, *(() if bias is None else (bias,)))
    outputs = operator(_SKIP_NORM, inputs, {"epsilon": norm.eps}, _NUM_OUTPUTS)
    return outputs[_SUM], outputs[_NORM]
