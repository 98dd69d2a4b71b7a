"""Optimizers with named groups: AdamW, or Muon for the blocks' matrices and AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from minit2i_deploy.training.recipe import Recipe

ADAM_BETAS = (0.9, 0.95)


class Optimizers:
    """One or two torch optimizers stepped as one."""

    def __init__(self, parameters: dict[str, nn.Parameter], recipe: Recipe) -> None:
        muon = {
            name: value
            for name, value in parameters.items()
            if recipe.optimizer == "muon" and "_blocks." in name and value.ndim == 2
        }
        rest = [value for name, value in parameters.items() if name not in muon]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                rest, recipe.lr, betas=ADAM_BETAS, weight_decay=recipe.weight_decay, fused=True
            )
        ]
        if muon:
            # match_rms_adamw scales the orthogonal update so that AdamW's rate fits it too.
            self.parts.append(
                torch.optim.Muon(
                    list(muon.values()),
                    recipe.lr,
                    weight_decay=recipe.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, lr: float) -> None:
        """Update every parameter at the given rate and clear the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, values in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(values)
