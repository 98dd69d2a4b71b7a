"""Quantised weight matrices: one scale an output channel, or one a block of input channels."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Num

from minit2i_deploy.export.quantize.formats import Format, round_scale

# A format this coarse gains by clipping a block's largest weight.
_CLIPS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_SMALLEST_BLOCK: Final = 16


def block_for(num_inputs: int, block: int) -> int:
    """The largest power of two that divides a layer's input channels, at most ``block``; or 0.

    Engines want whole blocks, and no smaller ones than 16. Without one that fits, and where no
    blocks are asked for, 0: one scale an output channel.
    """
    while block >= _SMALLEST_BLOCK:
        if num_inputs % block == 0:
            return block
        block //= 2
    return 0


def quantise_weight(
    weight: Float32[np.ndarray, "inputs outputs"], chosen: Format, block: int = 0
) -> tuple[Num[np.ndarray, "inputs outputs"], Float32[np.ndarray, "..."]]:
    """Quantise a matrix that is multiplied from the right.

    Args:
        weight: float32 [inputs, outputs].
        chosen: format of the values.
        block: input channels that share a scale; it divides inputs. 0: all of them.

    Returns:
        values of the format [inputs, outputs], and scales float32 [outputs], or
        [inputs / block, outputs].
    """
    if not block:
        scale = _scale(weight[None], chosen)[0]
        return chosen.quantise(weight, scale), scale
    blocks = weight.reshape(-1, block, weight.shape[1])
    scale = _scale(blocks, chosen)
    values = chosen.quantise(blocks, scale[:, None]).reshape(weight.shape)
    return values, scale


def round_trip_weight(
    weight: Float32[np.ndarray, "inputs outputs"], chosen: Format, block: int = 0
) -> Float32[np.ndarray, "inputs outputs"]:
    """What is left of a matrix: float32 [inputs, outputs]."""
    values, scale = quantise_weight(weight, chosen, block)
    wide = np.repeat(scale, block, axis=0) if block else scale
    return chosen.dequantise(values, wide)


def _scale(
    blocks: Float32[np.ndarray, "blocks inputs outputs"], chosen: Format
) -> Float32[np.ndarray, "blocks outputs"]:
    whole = chosen.scale_of(np.abs(blocks).max(axis=1))
    if chosen.largest > 7:
        return whole
    return _clipped(blocks, chosen, whole)


def _clipped(
    blocks: Float32[np.ndarray, "blocks inputs outputs"],
    chosen: Format,
    whole: Float32[np.ndarray, "blocks outputs"],
) -> Float32[np.ndarray, "blocks outputs"]:
    """Of several shares of the whole scale, each block's best in squared error."""
    best, least = whole, np.full(whole.shape, np.inf)
    for clip in _CLIPS:
        scale = round_scale(whole * np.float32(clip))
        left = chosen.round_trip(blocks, scale[:, None])
        error = np.square(left - blocks, dtype=np.float64).sum(axis=1)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best
