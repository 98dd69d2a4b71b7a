"""Which parameters of a network a run updates."""

from __future__ import annotations

from torch import nn

from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.lora.layers import adapter_parameters

# Nothing reads the text stream after the last block; official checkpoints carry these anyway.
_UNUSED = ("txt_attn_proj.", "txt_norm2.", "txt_mlp.")


def freeze_unused_parameters(net: MMJiT) -> None:
    """Freeze what reaches no output, so that no process waits for its gradient."""
    last = f"double_blocks.{net.config.depth_double - 1}."
    for name, value in net.canonical_parameters().items():
        if name.startswith(tuple(last + part for part in _UNUSED)):
            value.requires_grad_(False)


def trainable_parameters(net: MMJiT) -> dict[str, nn.Parameter]:
    """The parameters that the optimizer and the average hold, under canonical names.

    Of a network with adapters, these alone. Of another, unused parameters are among them: they
    have no gradient and keep their values.
    """
    return adapter_parameters(net) or net.canonical_parameters()
