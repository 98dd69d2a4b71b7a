"""Figures of pictures in numpy: three distances, saturation, and seams between patches.

Every function takes the sampler's final states, float32 [batch, 3, H, W], -1 black to 1 white and
not yet clamped, and gives a figure for each picture.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from minit2i_deploy.errors import UsageError

GMSD_STABILITY: Final = 170.0
_LUMA: Final = (0.299, 0.587, 0.114)
_SMALLEST: Final = 8


def psnr(
    a: Float32[np.ndarray, "batch 3 height width"],
    b: Float32[np.ndarray, "batch 3 height width"],
) -> Float64[np.ndarray, " batch"]:
    """Peak signal-to-noise ratio of pictures clamped to [-1, 1].

    Args:
        a: float32 [batch, 3, H, W], -1 black to 1 white.
        b: float32 [batch, 3, H, W], what a is compared with.

    Returns:
        float64 [batch], decibels; infinity where the two are equal.

    Raises:
        UsageError: two shapes.

    Source: 10 log10(peak^2 / mean squared error) with peak 2, the length of [-1, 1].
    """
    _check_pair(a, b)
    error = np.square(_clamped(a) - _clamped(b)).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(4.0 / error)


def gmsd(
    a: Float32[np.ndarray, "batch 3 height width"],
    b: Float32[np.ndarray, "batch 3 height width"],
) -> Float64[np.ndarray, " batch"]:
    """Gradient magnitude similarity deviation: a perceptual distance that needs no weights.

    Luma of 0 to 255 is averaged over 2x2 blocks; Prewitt filters give gradient magnitudes p and q
    at the inner pixels; the distance is the standard deviation, over pixels, of
    (2 p q + 170) / (p^2 + q^2 + 170). It sees no change of hue at equal luma and no constant
    offset, which PSNR does.

    Args:
        a: float32 [batch, 3, H, W], -1 black to 1 white; values outside are clamped.
        b: float32 [batch, 3, H, W], what a is compared with.

    Returns:
        float64 [batch], 0 equal, larger is worse, below 0.5.

    Raises:
        UsageError: two shapes, or pictures below 8x8 pixels.

    Source: Xue et al. 1308.3052, equations 1 to 5. The authors' code pads with black, which makes
    an edge around every picture; here the outermost pixels have no gradient.
    """
    _check_pair(a, b)
    if min(a.shape[2:]) < _SMALLEST:
        raise UsageError(
            f"pictures are {a.shape[2]}x{a.shape[3]}, but at least {_SMALLEST}x{_SMALLEST} pixels "
            "are needed"
        )
    p, q = (_gradient_magnitude(_blocks(luma(x))) for x in (a, b))
    similarity = (2.0 * p * q + GMSD_STABILITY) / (p * p + q * q + GMSD_STABILITY)
    return similarity.std(axis=(1, 2))


def share_outside(x: Float32[np.ndarray, "batch 3 height width"]) -> Float64[np.ndarray, " batch"]:
    """Share of values outside [-1, 1] before clamping: float64 [batch], 0 to 1."""
    return (np.abs(x) > 1.0).mean(axis=(1, 2, 3), dtype=np.float64)


def share_clipped(x: Float32[np.ndarray, "batch 3 height width"]) -> Float64[np.ndarray, " batch"]:
    """Share of bytes that only the clamp keeps in 0 to 255: float64 [batch], 0 to 1.

    A value counts from half a byte outside [-1, 1] on; a white of 1.001 counts in ``share_outside``
    only.
    """
    level = np.floor(x * np.float32(127.5) + np.float32(128.0))
    return ((level < 0) | (level > 255)).mean(axis=(1, 2, 3), dtype=np.float64)


def seam_gradients(
    x: Float32[np.ndarray, "batch 3 height width"], patch_size: int
) -> Float64[np.ndarray, "batch 2 2"]:
    """Mean absolute difference of neighbouring pixels, across patch borders and elsewhere.

    The outer half of the outermost patches is left out: pictures are emptier there, and it lies
    beside no border, so it would pass for a seam everywhere else.

    Args:
        x: float32 [batch, 3, H, W], -1 black to 1 white; values outside are clamped.
        patch_size: pixels of a patch's side, 2 or more; each side holds at least two patches.

    Returns:
        float64 [batch, 2, 2]: first horizontal neighbours, then vertical ones; of each first the
            pairs that a border lies between, then the others.

    Raises:
        UsageError: a patch size that leaves no borders, or nothing else.
    """
    if patch_size < 2 or min(x.shape[2:]) <= patch_size:
        raise UsageError(
            f"patch size is {patch_size} in pictures of {x.shape[2]}x{x.shape[3]}, but 2 pixels "
            "or more and at least two patches a side are needed"
        )
    clamped = _clamped(x)
    return np.stack(
        [
            _border_and_rest(
                np.abs(np.diff(clamped, axis=axis)).mean(axis=(1, 5 - axis)), patch_size
            )
            for axis in (3, 2)
        ],
        axis=1,
    )


def seam_ratios(gradients: Float64[np.ndarray, "batch 2 2"]) -> tuple[float | None, ...]:
    """Gradient across patch borders over gradient elsewhere, of many pictures together.

    A single picture's ratio depends on where its edges happen to lie, and is 0/0 where it is
    flat; so the gradients are averaged first.

    Args:
        gradients: float64 [batch, 2, 2] of ``seam_gradients``, in any number of pictures.

    Returns:
        horizontal, vertical and both together; 1 is no seam, and None all flat inside patches.
    """
    mean = gradients.mean(axis=0)
    pairs = (*mean, mean.sum(axis=0))
    return tuple(float(border / rest) if rest > 0 else None for border, rest in pairs)


def _border_and_rest(
    profile: Float64[np.ndarray, "batch pairs"], patch_size: int
) -> Float64[np.ndarray, "batch 2"]:
    # Pair i lies between pixels i and i + 1.
    place = np.arange(1, profile.shape[1] + 1)
    at_border = place % patch_size == 0
    half = patch_size // 2
    near = (place >= patch_size - half) & (place <= profile.shape[1] + 1 - patch_size + half)
    parts = [profile[:, chosen].mean(axis=1) for chosen in (at_border, near & ~at_border)]
    return np.stack(parts, axis=1)


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise UsageError(f"pictures of shape {list(a.shape)} came with {list(b.shape)}; give equal")


def _clamped(x: np.ndarray) -> Float64[np.ndarray, "batch 3 height width"]:
    return np.clip(x.astype(np.float64), -1.0, 1.0)


def luma(
    x: Float32[np.ndarray, "batch 3 height width"],
) -> Float64[np.ndarray, "batch height width"]:
    """Brightness of BT.601 of pictures clamped to [-1, 1]: float64 [batch, H, W], 0 to 255."""
    return np.tensordot(_LUMA, (_clamped(x) + 1.0) * 127.5, axes=(0, 1))


def _blocks(levels: np.ndarray) -> Float64[np.ndarray, "batch rows columns"]:
    rows, columns = (size // 2 for size in levels.shape[1:])
    even = levels[:, : 2 * rows, : 2 * columns]
    return even.reshape(len(levels), rows, 2, columns, 2).mean(axis=(2, 4))


def _gradient_magnitude(levels: np.ndarray) -> Float64[np.ndarray, "batch rows columns"]:
    """Prewitt: the mean of three neighbouring central differences, in either direction."""
    across = levels[:, :, 2:] - levels[:, :, :-2]
    down = levels[:, 2:] - levels[:, :-2]
    gx = (across[:, :-2] + across[:, 1:-1] + across[:, 2:]) / 3.0
    gy = (down[:, :, :-2] + down[:, :, 1:-1] + down[:, :, 2:]) / 3.0
    return np.hypot(gx, gy)
