"""Initial weights of a run: fresh ones, or those of a checkpoint.

Source: minit2i-jax, the initializers of MMJiT's and MeanFlowMMJiT's layers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import TrainingError
from minit2i_deploy.model.layers import RMSNorm
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.model.student import StudentAdapter
from minit2i_deploy.training.recipe.recipe import Recipe

TOKEN_STD = 0.02
_BLOCK: Final = re.compile(r"double_blocks\.(\d+)\.(.*)")
# What a block adds to its streams is their product with these.
_OUTPUTS: Final = re.compile(r"(img|txt)_(attn_proj|mlp\.w2)\.")


def initialize_weights(net: MMJiT, seed: int) -> None:
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


def load_starting_weights(recipe: Recipe) -> Mapping[str, np.ndarray]:
    """Read the averaged weights of ``recipe.start_from``.

    They may be of fewer double blocks than the recipe's network has; see ``deepened``.

    Returns:
        canonical names to float32 arrays.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        TrainingError: its network has another shape.
    """
    checkpoint = load_checkpoint(recipe.start_folder)
    depth, new_depth = checkpoint.config.depth_double, recipe.model.depth_double
    # Loops name blocks by their number.
    may_grow = depth < new_depth and recipe.model.loop is None
    expected = dataclasses.replace(recipe.model, depth_double=depth) if may_grow else recipe.model
    check_same_network(recipe.start_folder, checkpoint.config, expected)
    weights = {name: np.asarray(value, np.float32) for name, value in checkpoint.tensors.items()}
    return deepened(weights, depth, new_depth)


def deepened(
    weights: Mapping[str, np.ndarray], depth: int, new_depth: int
) -> dict[str, np.ndarray]:
    """The weights of a network of more double blocks that computes the same.

    The new blocks lie evenly between the old ones. Each is a copy of the one before it that adds
    nothing: the last matrices of its attention and of its MLP are zero, and learn first.

    Args:
        weights: by canonical name.
        depth: double blocks that they have.
        new_depth: double blocks of the result, at least as many.

    Source: the zero initialisation of residual branches of Fixup (1901.09321) and Net2Net's
    identity layers (1511.05641).
    """
    # The old block of each new one; the first of equal numbers is the block itself. The last one
    # stays last: nothing read its text stream, so that was never trained.
    others, places = depth - 1, new_depth - 1
    sources = [max(0, -(-(2 * n + 1) * others // (2 * places)) - 1) for n in range(places)]
    sources.append(depth - 1)
    result = {}
    for name, value in weights.items():
        block = _BLOCK.fullmatch(name)
        if block is None:
            result[name] = value
            continue
        copies = [place for place, source in enumerate(sources) if source == int(block[1])]
        for place in copies:
            adds_nothing = place > copies[0] and _OUTPUTS.match(block[2])
            result[f"double_blocks.{place}.{block[2]}"] = (
                np.zeros_like(value) if adds_nothing else value
            )
    return result


@torch.no_grad()
def copy_weights(net: MMJiT, weights: Mapping[str, np.ndarray]) -> None:
    """Copy weights by canonical name into a network, in place; other parameters keep their values.

    Raises:
        KeyError: the network has no parameter of a name.
    """
    parameters = net.canonical_parameters()
    for name, value in weights.items():
        parameters[name].copy_(torch.from_numpy(value))


def check_same_network(path: Path, actual: ModelConfig, expected: ModelConfig) -> None:
    """Compare a checkpoint's network with the recipe's.

    Raises:
        TrainingError: they differ; the first difference is named.
    """
    theirs = actual.to_dict() | {"student": actual.student}
    ours = expected.to_dict() | {"student": expected.student}
    different = sorted(key for key in ours if ours[key] != theirs[key])
    if different:
        key = different[0]
        raise TrainingError(
            f"{path}: is another network (model.{key} is {theirs[key]!r}, the recipe has "
            f"{ours[key]!r}); use that checkpoint's model in the recipe"
        )
