"""Weights that a run begins with: a pretrained model's, or a teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import TrainingError
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.recipe.recipe import Recipe


def weights_of(recipe: Recipe) -> Mapping[str, np.ndarray]:
    """The averaged weights of ``recipe.start_from``, canonical names to float32 arrays.

    Raises:
        CheckpointError: it cannot be read.
        TrainingError: it is another network.
    """
    checkpoint = load_checkpoint(recipe.start_folder)
    check_network(recipe.start_folder, checkpoint.config, recipe.model)
    return {name: np.asarray(value, np.float32) for name, value in checkpoint.tensors.items()}


@torch.no_grad()
def copy_weights(net: MMJiT, weights: Mapping[str, np.ndarray]) -> None:
    """Copy weights by canonical name into a network, in place; those without a name there stay."""
    own = net.canonical_parameters()
    for name, value in weights.items():
        own[name].copy_(torch.from_numpy(value))


def check_network(path: Path, found: ModelConfig, wanted: ModelConfig) -> None:
    """Raise a TrainingError where two networks differ, naming the first difference."""
    asked = wanted.to_dict() | {"student": wanted.student}
    values = found.to_dict() | {"student": found.student}
    different = sorted(key for key in asked if asked[key] != values[key])
    if different:
        key = different[0]
        raise TrainingError(
            f"{path}: is another network (model.{key} is {values[key]!r}, the recipe has "
            f"{asked[key]!r}); give the recipe that checkpoint's model"
        )
