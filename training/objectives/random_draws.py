"""Random draws of one step, a function of (seed, step, position in the batch) on every device."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from minit2i_deploy.training.objectives.flow_matching_loss import draw_times, drop_captions
from minit2i_deploy.training.recipe.recipe import Recipe

# Odd, so that multiplying by it modulo 2**32 keeps different seeds different.
SEED_FACTOR = 0x9E3779B1
NOISE_STREAM = 2
POOL_STREAM = 3
# Drawing an image's noise is serial and takes 2 ms at 512 px; torch releases the GIL meanwhile.
NOISE_THREADS = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draws:
    """The draws of some images of one step.

    Args:
        mask: [B, L], with the mask of dropped captions zeroed.
        t: float32 [B], 0 noise to 1 image.
        noise: float32 [B, 3, H, W], standard normal.
    """

    mask: Tensor
    t: Tensor
    noise: Tensor


def draw_step(recipe: Recipe, step: int, mask: Tensor, positions: Sequence[int]) -> Draws:
    """Draw caption dropping, times and noise, on the CPU.

    Args:
        recipe: seed, batch, drop rate and image size.
        step: optimizer steps made so far.
        mask: [B, L], 1 at real tokens.
        positions: B positions in the global batch.
    """
    generator = torch.Generator().manual_seed(draw_seed(recipe.seed, step))
    index = torch.tensor(positions)
    keep = drop_captions(torch.ones(recipe.batch, 1), recipe.label_drop, generator)
    return Draws(
        mask=mask * keep[index].to(mask.dtype),
        t=draw_times(recipe.batch, generator, mean=recipe.time_mean, std=recipe.time_std)[index],
        noise=draw_noise(recipe, step, positions),
    )


def draw_noise(recipe: Recipe, step: int, positions: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 [B, 3, H, W], each image's from its own position."""
    size = recipe.model.image_size
    noise = torch.empty(len(positions), recipe.model.in_channels, size, size)

    def fill(i: int) -> None:
        key = np.random.SeedSequence([NOISE_STREAM, recipe.seed, step, positions[i]])
        generator = torch.Generator().manual_seed(int(key.generate_state(1)[0]))
        noise[i].normal_(generator=generator)

    with ThreadPoolExecutor(NOISE_THREADS) as threads:
        list(threads.map(fill, range(len(positions))))
    return noise


def draw_seed(seed: int, step: int) -> int:
    """32 bits, because torch's CPU generator ignores all higher ones."""
    return (step ^ seed * SEED_FACTOR) & 0xFFFFFFFF


def data_step(recipe: Recipe, step: int) -> int:
    """The step whose captions and draws a step trains on: itself, where nothing is used again.

    With ``distill.trajectory_uses`` a pool of batches is first drawn in order and then used in
    another order each time, so every batch serves that many steps.

    Args:
        recipe: seed and pool.
        step: optimizer steps made before.
    """
    distill = recipe.distill
    if distill is None or not distill.pooled_batches:
        return step
    size = distill.pooled_batches
    pool, index = divmod(step, size * distill.trajectory_uses)
    use, place = divmod(index, size)
    return pool * size + int(_pool_order(recipe.seed, pool, use, size)[place])


def steps_back(recipe: Recipe, steps: range) -> list[int] | None:
    """Of each step, how many steps earlier its batch was new; None where all are new."""
    if recipe.distill is None or not recipe.distill.pooled_batches:
        return None
    return [step - data_step(recipe, step) for step in steps]


@lru_cache(maxsize=4)
def _pool_order(seed: int, pool: int, use: int, size: int) -> Int64[np.ndarray, " size"]:
    if use == 0:
        return np.arange(size)
    return np.random.default_rng([POOL_STREAM, seed, pool, use]).permutation(size)
