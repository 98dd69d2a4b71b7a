"""Quantized weight matrices: one scale per output channel, or per block of input channels."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Num

from minit2i_deploy.export.quantize.formats import Format, round_scale

# x86 processors without VNNI add two products of 8-bit numbers in 16 bits, and saturate. With
# inputs of at most 255, two weights whose magnitudes add up to this cannot: 255 * 128 < 2**15.
PAIR_LIMIT: Final = 128
# Shares of the full scale tried for a format this coarse, which gains by clipping.
_CLIPS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_SMALLEST_BLOCK: Final = 16


def block_for(num_inputs: int, block: int) -> int:
    """The largest power of two that divides a layer's input channels, at most ``block``; or 0.

    Engines require complete blocks, of 16 or more. 0 is one scale per output channel: where no
    block fits or ``block`` is 0.
    """
    while block >= _SMALLEST_BLOCK:
        if num_inputs % block == 0:
            return block
        block //= 2
    return 0


def quantize_weight(
    weight: Float32[np.ndarray, "inputs outputs"],
    form: Format,
    block: int = 0,
    *,
    pair_safe: bool = False,
) -> tuple[Num[np.ndarray, "inputs outputs"], Float32[np.ndarray, "..."]]:
    """Quantize a matrix that is multiplied from the right.

    Args:
        weight: float32 [inputs, outputs].
        form: format of the values.
        block: input channels that share a scale; it divides inputs. 0: all of them.
        pair_safe: keep the sums of pairs of products in 16 bits, for INT8 in one block.

    Returns:
        values of the format [inputs, outputs], and scales float32 [outputs], or
        [inputs / block, outputs].
    """
    if pair_safe:
        assert not block, "pairs share a scale"
        return _quantize_pairs(weight, form)
    if not block:
        scale = _block_scales(weight[None], form)[0]
        return form.quantize(weight, scale), scale
    blocks = weight.reshape(-1, block, weight.shape[1])
    scale = _block_scales(blocks, form)
    values = form.quantize(blocks, scale[:, None]).reshape(weight.shape)
    return values, scale


def _block_scales(
    blocks: Float32[np.ndarray, "blocks inputs outputs"], form: Format
) -> Float32[np.ndarray, "blocks outputs"]:
    full = form.scale_of(np.abs(blocks).max(axis=1))
    return full if form.largest > 7 else _clipped_scales(blocks, form, full)


def _clipped_scales(
    blocks: Float32[np.ndarray, "blocks inputs outputs"],
    form: Format,
    full: Float32[np.ndarray, "blocks outputs"],
) -> Float32[np.ndarray, "blocks outputs"]:
    """Of several shares of the full scale, the best of each block in squared error."""
    best, least = full, np.full(full.shape, np.inf)
    for clip in _CLIPS:
        scale = round_scale(full * np.float32(clip))
        rounded = form.round_trip(blocks, scale[:, None])
        error = np.square(rounded - blocks, dtype=np.float64).sum(axis=1)
        best = np.where(error < least, scale, best)
        least = np.minimum(error, least)
    return best


def _quantize_pairs(
    weight: Float32[np.ndarray, "inputs outputs"], form: Format
) -> tuple[Num[np.ndarray, "inputs outputs"], Float32[np.ndarray, " outputs"]]:
    """Weights of input channels 2i and 2i + 1 that have one sign add up to PAIR_LIMIT at most.

    That is what the processors' instruction multiplies and adds (pmaddubsw). Most pairs are far
    below it, so one scale per output channel grows by a third where 7 bits would double it.
    """
    first, second = _pairs(weight)
    absmax = np.abs(weight).max(axis=0)
    largest_pair = _sums_of_one_sign(first, second).max(axis=0)
    scale = round_scale(
        np.maximum(absmax / np.float32(form.largest), largest_pair / np.float32(PAIR_LIMIT))
    )
    ratio = weight / scale
    values = np.clip(np.rint(ratio), -form.largest, form.largest)
    _lower_sums(values, ratio)
    return values.astype(form.dtype), scale


def _lower_sums(values: np.ndarray, ratio: np.ndarray) -> None:
    """Take 1 off the weight that was rounded up further, where both were; in place."""
    first, second = _pairs(values)
    over = _sums_of_one_sign(first, second) > PAIR_LIMIT
    raised_first, raised_second = (
        np.abs(rounded) - np.abs(exact)
        for rounded, exact in zip((first, second), _pairs(ratio), strict=True)
    )
    takes_first = over & (raised_first >= raised_second)
    takes_second = over & ~takes_first
    values[0::2] -= takes_first * np.sign(first)
    odd = values[1::2]
    odd -= (takes_second * np.sign(second))[: len(odd)]


def _pairs(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows 2i and rows 2i + 1, with a row of zeros at the end of an odd number."""
    even = np.pad(matrix, ((0, len(matrix) % 2), (0, 0)))
    return even[0::2], even[1::2]


def _sums_of_one_sign(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Sums of magnitudes, 0 where the signs differ: those products cancel."""
    total: np.ndarray = np.where(first * second > 0, np.abs(first) + np.abs(second), 0)
    return total
