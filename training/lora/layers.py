"""LoRA adapters in a network: peft's layers under canonical names.

An adapter's matrices are named by their layer: ``double_blocks.0.img_qkv.lora_A.weight``.

Source: LoRA, Hu et al. 2106.09685; peft's layers do the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from minit2i_deploy.errors import require
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.recipe.lora import LoraRecipe


def add_adapters(net: MMJiT, lora: LoraRecipe, targets: Sequence[str], seed: int) -> None:
    """Add an adapter to each target and freeze everything else, in place.

    The first matrix of a pair is kaiming-uniform as in peft, drawn from the seed; the second is
    zero, so the network's output does not change.

    Args:
        net: a network without adapters.
        lora: rank, alpha and dropout.
        targets: canonical names of linear layers.
        seed: of the first matrices.

    Raises:
        MissingDependencyError: peft is not installed.
    """
    peft = require("peft", "train")
    # Full names inside our two modules: peft would also match the end of a name.
    target_modules = [name for name, _ in net.named_modules() if name.partition(".")[2] in targets]
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target_modules,
        bias="none",
    )
    peft.inject_adapter_in_model(config, net)
    for module in net.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            # Autocast casts already; peft's own cast to float32 before it only costs time.
            module.cast_input_dtype_enabled = False
    generator = torch.Generator().manual_seed(seed)
    for name, value in adapter_parameters(net).items():
        if name.endswith(".lora_A.weight"):
            nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)
        else:
            nn.init.zeros_(value)


def adapter_parameters(net: MMJiT) -> dict[str, nn.Parameter]:
    """The adapters' matrices under canonical names; empty for a network without adapters."""
    return {
        name.replace(".default.", "."): value
        for name, value in net.canonical_parameters().items()
        if ".lora_" in name
    }
