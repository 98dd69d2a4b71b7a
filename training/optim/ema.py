"""Exponential moving average of a network's parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minit2i_deploy.training.distributed.parallel import local_shard, shard_like
from minit2i_deploy.training.recipe.recipe import Recipe


def ema_decay_at(recipe: Recipe, step: int) -> float:
    """Decay after step number ``step``, counted from 1.

    A constant decay is warmed up as min(decay, (1 + step) / (10 + step)), so that the first values
    do not linger in short runs; over the official 250,000 steps that makes no difference. A
    half-life of H thousand images is 0.5 ** (batch / min(1000 H, rampup * step * batch)).

    Source: minit2i-jax, branch mean_flow_distill, EMA of type "edm"; Karras et al. 2312.02696.
    """
    if recipe.ema_halflife_kimg == 0:
        return min(recipe.ema_decay, (1 + step) / (10 + step))
    halflife = min(1000 * recipe.ema_halflife_kimg, recipe.ema_rampup * step * recipe.batch)
    return float(0.5 ** (recipe.batch / halflife))


class EMA:
    """The average ``decay * average + (1 - decay) * value`` of every parameter, in float32.

    The decay of each step is ``ema_decay_at``'s. Of a sharded parameter each process averages its
    own shard.
    """

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        self.tensors: dict[str, Tensor] = {
            name: value.detach().to(torch.float32).clone() for name, value in parameters.items()
        }

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        """Add the parameters to the average, which keeps the weight ``decay``."""
        averages = [local_shard(average) for average in self.tensors.values()]
        values = [local_shard(parameters[name].detach()).to(torch.float32) for name in self.tensors]
        torch._foreach_lerp_(averages, values, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from saved averages, full tensors.

        Raises:
            KeyError: a parameter has no saved average.
        """
        self.tensors = {
            name: shard_like(tensors[name].to(torch.float32), value)
            for name, value in self.tensors.items()
        }
