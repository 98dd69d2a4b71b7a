"""Soft borders of a mask."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import UsageError


def feathered(
    mask: Float32[np.ndarray, "height width"], pixels: float
) -> Float32[np.ndarray, "height width"]:
    """Soften a mask's border into the part that stays.

    A pixel at distance d from the nearest one that is new at all becomes 1 - d / (pixels + 1) new,
    so the generated part stays as it is marked, and known pixels from ``pixels`` + 1 on keep their
    bytes.

    Args:
        mask: float32 [H, W], 1 new to 0 known.
        pixels: width of the border, at least 0; 0 changes nothing.

    Returns:
        float32 [H, W], nowhere below ``mask``.

    Raises:
        UsageError: no such width, or one above the image's side.
    """
    if not 0 <= pixels <= max(mask.shape):
        raise UsageError(f"feather must be from 0 to {max(mask.shape)} pixels, got {pixels}")
    if pixels == 0:
        return mask
    ramp = 1 - _distance(mask > 0, int(np.ceil(pixels))) / (pixels + 1)
    return np.maximum(mask, ramp.clip(0, 1).astype(np.float32))


def _distance(marked: np.ndarray, reach: int) -> np.ndarray:
    """Euclidean distance to the nearest marked pixel; infinity where none is within ``reach``."""
    squares = np.where(marked, 0.0, np.inf)
    # The square of a distance is a sum over the axes, so each axis has its own minimum.
    for axis in (0, 1):
        padding = [(reach, reach) if one == axis else (0, 0) for one in (0, 1)]
        wide = np.pad(squares, padding, constant_values=np.inf)
        length = squares.shape[axis]
        squares = np.full_like(squares, np.inf)
        for offset in range(2 * reach + 1):
            shifted = np.take(wide, range(offset, offset + length), axis)
            np.minimum(squares, shifted + (offset - reach) ** 2, out=squares)
    return np.sqrt(squares)
