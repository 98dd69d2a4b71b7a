"""Initial weights. Source: minit2i-jax, the initialisers of MMJiT's and MeanFlowMMJiT's layers."""

from __future__ import annotations

import torch
from torch import nn

from minit2i_deploy.model.layers import RMSNorm
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.model.student import StudentAdapter

TOKEN_STD = 0.02


def initialise(net: MMJiT, seed: int) -> None:
    """Fill the network in place: xavier-uniform matrices, zero biases, norms at one.

    The patch embedding counts as a matrix over its flattened patch; the final layer is zero, so
    the untrained network predicts a grey image; learned tokens, and the matrices that embed a
    few-step student's conditions, are N(0, 0.02).
    """
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            weight = module.weight.data.view(module.weight.shape[0], -1)
            nn.init.xavier_uniform_(weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
    nn.init.normal_(net.text_adapter.mask_token, std=TOKEN_STD, generator=generator)
    nn.init.zeros_(net.denoiser.final_layer.linear.weight)
    if isinstance(net.text_adapter, StudentAdapter):
        for name, value in net.text_adapter.named_parameters():
            if name.endswith("_tokens") or ("_embedder.mlp." in name and value.ndim == 2):
                nn.init.normal_(value, std=TOKEN_STD, generator=generator)
