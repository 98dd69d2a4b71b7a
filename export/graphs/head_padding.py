"""Attention heads padded with zeros: the same outputs, for fused kernels that need the width."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import nn

from minit2i_deploy.bundle.head_padding import HeadPadding
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model.blocks import DoubleBlock, TextBlock

_ROTARY: Final = "rotary"


def padding_for(config: ModelConfig, multiple: int) -> HeadPadding | None:
    """Padding of a network's heads to the next multiple; None if they need none."""
    padded = -(-config.head_dim // multiple) * multiple
    if padded == config.head_dim:
        return None
    return HeadPadding(head_dim=config.head_dim, padded=padded)


def pad_heads(net: nn.Module, padding: HeadPadding) -> None:
    """Widen every head of a float32 network, or of a part of one, in place.

    Its outputs stay the same to rounding.
    """
    for module in net.modules():
        if isinstance(module, TextBlock | DoubleBlock):
            _pad_block(module, padding)
        for name, table in module.named_buffers(recurse=False):
            if name.endswith(_ROTARY):
                setattr(module, name, torch.from_numpy(padding.pad_rotary(table.numpy())))


def _pad_block(block: TextBlock | DoubleBlock, padding: HeadPadding) -> None:
    block.heads = replace(block.heads, head_dim=padding.padded, scale=padding.softmax_scale)
    for norm in (block.q_norm, block.k_norm):
        norm.eps = padding.epsilon(norm.eps)
    for name, weight in block.named_parameters():
        if padding.is_padded(name):
            weight.data = torch.from_numpy(padding.pad(name, weight.detach().numpy()))
