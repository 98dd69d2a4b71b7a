"""The start noise of every runtime and language: Philox4x32-10 and Box-Muller.

Element i of the flattened array is output ``i % 4`` of block ``i // 4``. A block's counter words
are (block low 32 bits, block high 32 bits, stream, 0), its key words (seed low, seed high). The
block's four output words w0..w3 become uniforms u = (w + 0.5) / 2**32, always inside (0, 1), and
    z0 = r(u0) cos(2 pi u1)    z1 = r(u0) sin(2 pi u1)    with r(u) = sqrt(-2 ln u)
    z2 = r(u2) cos(2 pi u3)    z3 = r(u2) sin(2 pi u3)
in float64, rounded to float32 at the end. A last partial block is cut.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), and its Random123
library for the constants; Box and Muller 1958.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt32

from minit2i_deploy.errors import UsageError

GENERATOR: Final = "philox4x32-10/box-muller"

_NUM_ROUNDS: Final = 10
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS: Final = (0x9E3779B9, 0xBB67AE85)
_MASK: Final = np.uint64(0xFFFFFFFF)
_SHIFT: Final = np.uint64(32)


def standard_noise(
    seed: int, shape: Sequence[int], *, stream: int = 0
) -> Float32[np.ndarray, " *shape"]:
    """Draw unit normal noise that depends on the seed, the stream and the element index only.

    Args:
        seed: 0 <= seed < 2**64.
        shape: positive sizes of the array.
        stream: 0 <= stream < 2**32. 0 is the start noise; row k of a stochastic table takes
            stream k + 1.

    Returns:
        noise: float32 of ``shape``, mean 0, variance 1, magnitude below 6.8.

    Raises:
        UsageError: seed, stream or shape outside its range.
    """
    key = _integer("seed", seed, 2**64)
    stream = _integer("stream", stream, 2**32)
    sizes = tuple(_integer("shape", size, 2**63) for size in shape)
    if 0 in sizes:
        raise UsageError(f"every size of a noise shape must be at least 1, got {sizes}")
    count = math.prod(sizes)
    bits = philox(_counters(-(-count // 4), stream), (key & 0xFFFFFFFF, key >> 32))
    return _box_muller(bits).reshape(-1)[:count].reshape(sizes)


def mixed_noise(
    seed: int, other: int, amount: float, shape: Sequence[int]
) -> Float32[np.ndarray, " *shape"]:
    """Start noise between those of two seeds: cos(angle) z(seed) + sin(angle) z(other).

    The angle is ``amount`` of a right angle. Both are independent and unit normal, so the mix is
    unit normal too: it stays on the sphere, where a weighted mean would fall inside.

    Args:
        seed: of the noise at amount 0, 0 <= seed < 2**64.
        other: of the noise at amount 1, 0 <= other < 2**64.
        amount: 0 to 1.
        shape: positive sizes of the array.

    Returns:
        noise: float32 of ``shape``, unit normal.

    Raises:
        UsageError: an argument outside its range.
    """
    if not 0.0 <= amount <= 1.0:
        raise UsageError(f"amount must be from 0 (no variation) to 1 (the other), got {amount!r}")
    angle = amount * math.pi / 2
    mix = math.cos(angle) * standard_noise(seed, shape).astype(np.float64)
    mix += math.sin(angle) * standard_noise(other, shape)
    return mix.astype(np.float32)


def batch_noise(
    seeds: Sequence[int], shape: Sequence[int], *, stream: int = 0
) -> Float32[np.ndarray, "batch ..."]:
    """Stack each image's own noise, so an image does not depend on its neighbours.

    Args:
        seeds: one seed for each image of the batch.
        shape: sizes of one image's array.
        stream: as in ``standard_noise``, the same for all.

    Returns:
        noise: float32 [len(seeds), *shape], unit normal.

    Raises:
        UsageError: no seeds, or a seed, size or stream outside its range.
    """
    if not seeds:
        raise UsageError("expected a seed for each image, got none")
    return np.stack([standard_noise(seed, shape, stream=stream) for seed in seeds])


def philox(
    counters: UInt32[np.ndarray, "blocks 4"], key: tuple[int, int]
) -> UInt32[np.ndarray, "blocks 4"]:
    """Ten rounds of Philox4x32.

    Args:
        counters: uint32 [blocks, 4].
        key: two integers below 2**32, shared by all blocks.

    Returns:
        uint32 [blocks, 4].
    """
    c0, c1, c2, c3 = counters.astype(np.uint64).T
    for index in range(_NUM_ROUNDS):
        k0, k1 = (
            np.uint64((word + index * step) & 0xFFFFFFFF)
            for word, step in zip(key, _KEY_STEPS, strict=True)
        )
        product_0, product_2 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product_2 >> _SHIFT) ^ c1 ^ k0,
            product_2 & _MASK,
            (product_0 >> _SHIFT) ^ c3 ^ k1,
            product_0 & _MASK,
        )
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _counters(num_blocks: int, stream: int) -> UInt32[np.ndarray, "blocks 4"]:
    block = np.arange(num_blocks, dtype=np.uint64)
    counters = np.zeros((num_blocks, 4), dtype=np.uint32)
    counters[:, 0] = block & _MASK
    counters[:, 1] = block >> _SHIFT
    # Another word of the counter than the blocks', so streams never overlap.
    counters[:, 2] = stream
    return counters


def _box_muller(bits: UInt32[np.ndarray, "blocks 4"]) -> Float32[np.ndarray, "blocks 4"]:
    # The half keeps u above 0, where the logarithm is finite.
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-32
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0::2]))
    angle = 2.0 * np.pi * uniform[:, 1::2]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return normal.reshape(-1, 4).astype(np.float32)


def _integer(name: str, value: object, limit: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < limit:
        raise UsageError(
            f"noise {name} must be an integer from 0 to 2**{limit.bit_length() - 1} - 1, got"
            f" {value!r}"
        )
    return number
