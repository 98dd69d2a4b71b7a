"""Optimizers with named groups: AdamW, or Muon for the blocks' matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from minit2i_deploy.training.distributed.parallel import cut_like, whole
from minit2i_deploy.training.optim.muon import Muon
from minit2i_deploy.training.recipe.recipe import Recipe

ADAM_BETAS = (0.9, 0.95)


class Optimizers:
    """One or two torch optimizers stepped as one.

    Args:
        parameters: canonical names to what is trained.
        recipe: which optimizer, and its rates.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], recipe: Recipe) -> None:
        muon = {
            name: value
            for name, value in parameters.items()
            if recipe.optimizer == "muon" and "_blocks." in name and value.ndim == 2
        }
        rest = [value for name, value in parameters.items() if name not in muon]
        # The second rate over the first, so that both follow one schedule.
        self.rest_share = recipe.adam_lr / recipe.lr if muon and recipe.adam_lr else 1.0
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
        """Update every parameter at the given rate and clear the gradients."""
        for part in self.parts:
            share = self.rest_share if isinstance(part, torch.optim.AdamW) else 1.0
            for group in part.param_groups:
                group["lr"] = lr * share
            part.step()
            part.zero_grad()

    def state_dict(self, gather: Callable[[Tensor], Tensor] = whole) -> dict[str, Any]:
        """torch's form, with each tensor gathered; every process must call it."""
        return {
            "parts": [_mapped(part.state_dict(), lambda _, v: gather(v)) for part in self.parts]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``'s form, from however many processes it came."""
        for part, values in zip(self.parts, state["parts"], strict=True):
            places = [value for group in part.param_groups for value in group["params"]]
            part.load_state_dict(_mapped(values, _cutter(places)))


def _cutter(parameters: list[nn.Parameter]) -> Callable[[int, Tensor], Tensor]:
    def cut(place: int, value: Tensor) -> Tensor:
        # Counters of steps are scalars and stay whole.
        return cut_like(value, parameters[place]) if value.ndim else value

    return cut


def _mapped(state: dict[str, Any], change: Callable[[int, Tensor], Tensor]) -> dict[str, Any]:
    """A torch optimizer's state with each tensor changed, told its parameter's place."""
    changed = {
        place: {
            key: change(place, value) if isinstance(value, Tensor) else value
            for key, value in values.items()
        }
        for place, values in state["state"].items()
    }
    return state | {"state": changed}
