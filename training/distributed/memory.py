"""Memory of a training process: the check of the batch size, and malloc settings for CPUs."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.machine import memory_bytes
from minit2i_deploy.training.recipe.recipe import Recipe

_CHANNELS: Final = 3
_FLOAT_BYTES: Final = 4
# Parameter numbers of glibc's malloc.h, and the largest values it accepts.
_TRIM_THRESHOLD: Final = (-1, 2**31 - 1)
_MMAP_THRESHOLD: Final = (-3, 32 * 2**20)


def check_batch_memory(recipe: Recipe, num_images: int) -> None:
    """Refuse a batch or a pool of trajectories whose images alone exceed this machine's memory.

    Args:
        recipe: gives the image size and the pool.
        num_images: images of a batch that this process holds at once.

    Raises:
        UsageError: the images, in float32, do not fit.
    """
    batch_bytes = num_images * _CHANNELS * recipe.model.image_size**2 * _FLOAT_BYTES
    available = memory_bytes()
    if available is None:
        return
    if batch_bytes > available:
        raise UsageError(
            f"recipe: batch is {recipe.batch}, whose images alone take {batch_bytes / 1e9:.0f} GB "
            f"of memory here, and this machine has {available / 1e9:.0f} GB; set a smaller batch, "
            "or train with more processes"
        )
    if recipe.distill is None:
        return
    states = recipe.accumulate * (recipe.sample_steps + 1)
    pool_bytes = recipe.distill.pooled_batches * states * batch_bytes
    if pool_bytes > available:
        raise UsageError(
            f"recipe: distill.trajectory_pool is {recipe.distill.trajectory_pool}, whose "
            f"trajectories take {pool_bytes / 1e9:.0f} GB of memory here, and this machine has "
            f"{available / 1e9:.0f} GB; set a smaller pool"
        )


def retain_freed_memory() -> bool:
    """Make malloc reuse freed blocks instead of returning them to the system.

    Every step allocates the same gradients and rounded weights anew. Each page that comes from the
    system costs a fault and is zeroed: 110,000 a step of B/32 with two images, 0.11 s of a core's
    2.9. The process keeps the memory of its peak, which did not grow.

    Returns:
        whether the C library has such a setting; only glibc has.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(mallopt(*setting) == 1 for setting in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
