"""Batches of pictures and captions as a function of (seed, step), so a run resumes exactly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minit2i_deploy.demo.shapes import draw, sample
from minit2i_deploy.training.recipe import Recipe

DATA_STREAM = 1


class ShapesBatches(Dataset[tuple[Tensor, list[str]]]):
    """Item number ``step`` is that step's batch, whatever came before it."""

    def __init__(self, recipe: Recipe) -> None:
        self.seed, self.batch = recipe.seed, recipe.batch
        self.size = recipe.model.image_size
        self.kind_weights = dict(recipe.kind_weights) or None

    def __getitem__(self, step: int) -> tuple[Tensor, list[str]]:
        """One batch.

        Returns:
            images uint8 [batch, H, W, 3] and their captions.
        """
        rng = np.random.default_rng([DATA_STREAM, self.seed, step])
        images, captions = [], []
        for _ in range(self.batch):
            scene, _, caption = sample(rng, weights=self.kind_weights)
            images.append(draw(scene, self.size))
            captions.append(caption)
        return torch.from_numpy(np.stack(images)), captions


def batches(recipe: Recipe, start: int) -> Iterator[tuple[Tensor, list[str]]]:
    """Batches of the steps from ``start`` to the end, drawn ahead in one worker process."""
    loader: DataLoader[Any] = DataLoader(
        ShapesBatches(recipe),
        sampler=range(start, recipe.steps),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
    )
    yield from loader


def to_network_range(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]: k / 127.5 - 1."""
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
