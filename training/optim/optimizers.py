"""Optimizers with named groups: AdamW, or Muon for the blocks' matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minit2i_deploy.training.distributed.parallel import full_tensor, shard_like
from minit2i_deploy.training.optim.muon import Muon
from minit2i_deploy.training.recipe.recipe import Recipe

ADAM_BETAS = (0.9, 0.95)


class Optimizers:
    """One or two torch optimizers stepped as one.

    Args:
        parameters: canonical names to what is trained.
        recipe: which optimizer, and its learning rates.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], recipe: Recipe) -> None:
        muon = {
            name: value
            for name, value in parameters.items()
            if recipe.optimizer == "muon" and "_blocks." in name and value.ndim == 2
        }
        rest = [value for name, value in parameters.items() if name not in muon]
        # AdamW's rate over Muon's, so that both follow one schedule.
        self.adam_lr_ratio = recipe.adam_lr / recipe.lr if muon and recipe.adam_lr else 1.0
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                rest, recipe.lr, betas=ADAM_BETAS, weight_decay=recipe.weight_decay, fused=True
            )
        ]
        if muon:
            self.parts.append(
                Muon(
                    list(muon.values()),
                    recipe.lr,
                    weight_decay=recipe.weight_decay,
                    adjust_lr_fn=recipe.muon_scale,
                )
            )

    def step(self, lr: float) -> None:
        """Update every parameter at this learning rate and clear the gradients."""
        for part in self.parts:
            ratio = self.adam_lr_ratio if isinstance(part, torch.optim.AdamW) else 1.0
            for group in part.param_groups:
                group["lr"] = lr * ratio
            part.step()
            part.zero_grad()

    def state_dict(self, gather: Callable[[Tensor], Tensor] = full_tensor) -> dict[str, Any]:
        """torch's form, with each tensor gathered; every process must call it."""
        return {
            "parts": [
                _map_tensors(part.state_dict(), lambda _, v: gather(v)) for part in self.parts
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``'s form, saved by any number of processes."""
        for part, values in zip(self.parts, state["parts"], strict=True):
            parameters = [value for group in part.param_groups for value in group["params"]]
            part.load_state_dict(_map_tensors(values, _sharder(parameters)))


def _sharder(parameters: list[nn.Parameter]) -> Callable[[int, Tensor], Tensor]:
    def shard(index: int, value: Tensor) -> Tensor:
        # Step counters are scalars and stay full.
        return shard_like(value, parameters[index]) if value.ndim else value

    return shard


def _map_tensors(
    state: dict[str, Any], transform: Callable[[int, Tensor], Tensor]
) -> dict[str, Any]:
    """A torch optimizer's state with ``transform(index of the parameter, tensor)`` applied."""
    mapped = {
        index: {
            key: transform(index, value) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return state | {"state": mapped}
