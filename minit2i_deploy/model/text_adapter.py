"""The text adapter: the part of the network that depends on the prompt alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model.blocks import TextBlock
from minit2i_deploy.model.layers import as_stream
from minit2i_deploy.model.positions import text_rotary


class TextAdapter(nn.Module):
    """Mask token, projection to the network's width and the text-only blocks."""

    rotary: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.txt_input_size))
        self.txt_embedder = nn.Linear(config.txt_input_size, config.hidden_size, bias=False)
        self.txt_preamble_blocks = nn.ModuleList(
            TextBlock(config) for _ in range(config.txt_preamble_depth)
        )
        rotary = text_rotary(config.num_text_tokens, config.head_dim)
        self.register_buffer("rotary", torch.from_numpy(rotary), persistent=False)

    def forward(self, context: Tensor, mask: Tensor) -> Tensor:
        """Adapt the text encoder's output.

        Args:
            context: [B, L, txt_input_size], the text encoder's output; values at masked
                positions do not matter as long as they are finite.
            mask: [B, L], 1 at real tokens, 0 where the mask token takes its place. All zeros is the
                unconditional branch.

        Returns:
            tokens: [B, L, hidden_size].
        """
        return self._blocks(self.txt_embedder(self._masked(context, mask)))

    def _masked(self, context: Tensor, mask: Tensor) -> Tensor:
        real = (mask > 0.5).unsqueeze(-1)
        return torch.where(real, context, self.mask_token.to(context.dtype))

    def _blocks(self, txt_BLD: Tensor) -> Tensor:
        txt_BLD = as_stream(txt_BLD, self.txt_embedder.weight.dtype)
        for block in self.txt_preamble_blocks:
            txt_BLD = block(txt_BLD, self.rotary)
        return txt_BLD
