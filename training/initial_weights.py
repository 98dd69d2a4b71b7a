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
_OUTPUTS: Final = re.compile(r"\.(img|txt)_(attn_proj|mlp\.w2)\.")


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
    weights, depth = _load_earlier(recipe.start_folder, recipe.model)
    return deepened(weights, depth, recipe.model.depth_double)


def load_change(
    recipe: Recipe, teacher: Mapping[str, np.ndarray], former_teacher: Path
) -> Mapping[str, np.ndarray]:
    """The teacher changed as distillation changed a former one; see ``changed_alike``.

    Args:
        recipe: its ``start_from`` is the former teacher's student.
        teacher: averaged weights by canonical name.
        former_teacher: checkpoint.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        TrainingError: a network has another shape.
    """
    base = dataclasses.replace(recipe.model, student=None)
    before, depth = _load_earlier(former_teacher, base)
    student = dataclasses.replace(recipe.model, depth_double=depth)
    checkpoint = load_checkpoint(recipe.start_folder)
    check_same_network(recipe.start_folder, checkpoint.config, student)
    after = {name: np.asarray(value, np.float32) for name, value in checkpoint.tensors.items()}
    return changed_alike(teacher, before, after, depth, recipe.model.depth_double)


def _load_earlier(folder: Path, model: ModelConfig) -> tuple[dict[str, np.ndarray], int]:
    """Averaged weights of a network of at most the model's double blocks, and their number."""
    checkpoint = load_checkpoint(folder)
    depth = checkpoint.config.depth_double
    # Loops name blocks by their number.
    may_grow = depth < model.depth_double and model.loop is None
    expected = dataclasses.replace(model, depth_double=depth) if may_grow else model
    check_same_network(folder, checkpoint.config, expected)
    return {
        name: np.asarray(value, np.float32) for name, value in checkpoint.tensors.items()
    }, depth


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
    result = {}
    for name, value in weights.items():
        first, *copies = _names_when_deeper(name, depth, new_depth)
        result[first] = value
        for copy in copies:
            adds_nothing = _OUTPUTS.search(copy)
            result[copy] = np.zeros_like(value) if adds_nothing else value
    return result


def changed_alike(
    weights: Mapping[str, np.ndarray],
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    depth: int,
    new_depth: int,
) -> dict[str, np.ndarray]:
    """Weights that are changed as others were.

    What training changed in one network is mostly what it would change in a later one of the same
    origin, so that a run begins near its end. Blocks that the later network has besides stay as
    they are.

    Args:
        weights: by canonical name, of a network of ``new_depth`` double blocks.
        before: of an earlier one, of ``depth`` double blocks.
        after: what training made of ``before``, with its own further weights.
        depth, new_depth: double blocks.

    Returns:
        weights + (after - before); those that only ``after`` has are as they are there.

    Source: task vectors of Ilharco et al. 2212.04089.
    """
    result = dict(weights)
    for name, value in after.items():
        later = _names_when_deeper(name, depth, new_depth)[0]
        result[later] = weights[later] + (value - before[name]) if name in before else value
    return result


def _names_when_deeper(name: str, depth: int, new_depth: int) -> list[str]:
    """A weight's name among more double blocks, and those of its block's copies."""
    block = _BLOCK.fullmatch(name)
    if block is None:
        return [name]
    # The old block of each new one; the first of equal numbers is the block itself. The last one
    # stays last: nothing read its text stream, so that was never trained.
    others, places = depth - 1, new_depth - 1
    sources = [max(0, -(-(2 * n + 1) * others // (2 * places)) - 1) for n in range(places)]
    sources.append(depth - 1)
    copies = [place for place, source in enumerate(sources) if source == int(block[1])]
    return [f"double_blocks.{place}.{block[2]}" for place in copies]


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
