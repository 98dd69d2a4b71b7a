"""What is random in one step, as a function of (seed, step) on every device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from minit2i_deploy.training.loss import draw_times, drop_captions
from minit2i_deploy.training.recipe import Recipe

# Odd, so that multiplying by it modulo 2**32 keeps different seeds different.
SEED_FACTOR = 0x9E3779B1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draws:
    """One step's draws.

    Args:
        mask: [B, L], with the mask of dropped captions zeroed.
        t: float32 [B], 0 noise to 1 image.
        noise: float32 [B, 3, H, W], standard normal.
    """

    mask: Tensor
    t: Tensor
    noise: Tensor


def draw_step(recipe: Recipe, step: int, mask: Tensor) -> Draws:
    """Draw caption dropping, times and noise, in this order, on the CPU.

    Args:
        recipe: seed, drop rate and picture size.
        step: optimizer steps made so far.
        mask: [B, L], 1 at real tokens.
    """
    generator = torch.Generator().manual_seed(draw_seed(recipe.seed, step))
    batch, size = mask.shape[0], recipe.model.image_size
    return Draws(
        mask=drop_captions(mask, recipe.label_drop, generator),
        t=draw_times(batch, generator),
        noise=torch.randn(batch, recipe.model.in_channels, size, size, generator=generator),
    )


def draw_seed(seed: int, step: int) -> int:
    """32 bits, because torch's CPU generator ignores all higher ones."""
    return (step ^ seed * SEED_FACTOR) & 0xFFFFFFFF
