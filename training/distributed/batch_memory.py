"""Whether a batch can be held at all."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.bench.machine import memory_bytes
from minit2i_deploy.training.recipe.recipe import Recipe

_CHANNELS: Final = 3
_FLOAT_BYTES: Final = 4


def check_batch(recipe: Recipe, num_pictures: int) -> None:
    """Refuse a batch whose pictures alone, in float32, are more than this machine's memory.

    Args:
        recipe: gives the pictures' size.
        num_pictures: of a batch, that this process holds at once.

    Raises:
        UsageError: they are.
    """
    needed = num_pictures * _CHANNELS * recipe.model.image_size**2 * _FLOAT_BYTES
    there = memory_bytes()
    if there is not None and needed > there:
        raise UsageError(
            f"recipe: batch is {recipe.batch}, whose pictures alone take {needed / 1e9:.0f} GB of "
            f"memory here, and this machine has {there / 1e9:.0f} GB; set a smaller batch, or "
            "train with more processes"
        )
