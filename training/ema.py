"""Exponential moving average of a network's parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class EMA:
    """Keeps ``average = decay * average + (1 - decay) * value`` of every parameter, in float32.

    The decay is warmed up as min(decay, (1 + step) / (10 + step)), so that the first values do
    not linger in short runs; over the official 250,000 steps that makes no difference.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.tensors = {
            name: value.detach().to(torch.float32).clone() for name, value in parameters.items()
        }

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        """Take in the parameters after step number ``step`` (counted from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names = list(self.tensors)
        averages = [self.tensors[name] for name in names]
        values = [parameters[name].detach().to(torch.float32) for name in names]
        torch._foreach_lerp_(averages, values, 1 - decay)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from saved averages.

        Raises:
            KeyError: a parameter has none.
        """
        self.tensors = {
            name: tensors[name].to(value.device, torch.float32)
            for name, value in self.tensors.items()
        }
