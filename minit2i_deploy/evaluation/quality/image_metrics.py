"""Image metrics in numpy: PSNR, GMSD, saturation, and seams between patches.

Every function takes the sampler's final states, float32 [batch, 3, H, W], -1 black to 1 white and
not yet clamped, and returns a figure for each image.
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
    """Peak signal-to-noise ratio of images clamped to [-1, 1].

    Args:
        a: float32 [batch, 3, H, W], -1 black to 1 white.
        b: float32 [batch, 3, H, W], what a is compared with.

    Returns:
        float64 [batch], decibels; infinity if the two are equal.

    Raises:
        UsageError: two shapes.

    Source: 10 log10(peak^2 / mean squared error) with peak 2, the length of [-1, 1].
    """
    _check_pair(a, b)
    error = np.square(_clamped(a) - _clamped(b)).mean(axis=(1, 2, 3))
    # Equal images have an infinite PSNR, which is a result and no fault.
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(4.0 / error)


def gmsd(
    a: Float32[np.ndarray, "batch 3 height width"],
    b: Float32[np.ndarray, "batch 3 height width"],
) -> Float64[np.ndarray, " batch"]:
    """Gradient magnitude similarity deviation: a perceptual distance that needs no weights.

    Luma of 0 to 255 is averaged over 2x2 blocks; Prewitt filters give gradient magnitudes p and q
    at the inner pixels; the distance is the standard deviation, over pixels, of
    (2 p q + 170) / (p^2 + q^2 + 170). A change of hue at equal luma or a constant offset
    does not change it; both change PSNR.

    Args:
        a: float32 [batch, 3, H, W], -1 black to 1 white; values outside are clamped.
        b: float32 [batch, 3, H, W], what a is compared with.

    Returns:
        float64 [batch], 0 equal, larger is worse, below 0.5.

    Raises:
        UsageError: two shapes, or images below 8x8 pixels.

    Source: Xue et al. 1308.3052, equations 1 to 5. The authors' code pads with black, which adds
    an edge around every image; here the outermost pixels have no gradient.
    """
    _check_pair(a, b)
    if min(a.shape[2:]) < _SMALLEST:
        raise UsageError(
            f"expected images of at least {_SMALLEST}x{_SMALLEST} pixels, got "
            f"{a.shape[2]}x{a.shape[3]}"
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

    The outer half of the outermost patches is excluded: images are emptier there and it touches no
    border, so including it would look like a seam at the borders.

    Args:
        x: float32 [batch, 3, H, W], -1 black to 1 white; values outside are clamped.
        patch_size: pixels of a patch's side, 2 or more; each side holds at least two patches.

    Returns:
        float64 [batch, 2, 2]: first horizontal neighbours, then vertical ones; of each first the
            pairs across a border, then the others.

    Raises:
        UsageError: a patch size with which there are only borders, or none.
    """
    if patch_size < 2 or min(x.shape[2:]) <= patch_size:
        raise UsageError(
            f"expected a patch size of 2 or more and two patches a side, got {patch_size} in "
            f"images of {x.shape[2]}x{x.shape[3]}"
        )
    clamped = _clamped(x)
    return np.stack(
        [
            _border_and_rest(
                # Averaged over color and over the other of the axes 2 and 3.
                np.abs(np.diff(clamped, axis=axis)).mean(axis=(1, 5 - axis)),
                patch_size,
            )
            for axis in (3, 2)
        ],
        axis=1,
    )


def seam_ratios(gradients: Float64[np.ndarray, "batch 2 2"]) -> tuple[float | None, ...]:
    """Gradient across patch borders over gradient elsewhere, over many images.

    The ratio of a single image depends on where its edges are, and is 0/0 if it is flat; so the
    gradients are averaged first.

    Args:
        gradients: float64 [batch, 2, 2] of ``seam_gradients``, of any number of images.

    Returns:
        horizontal, vertical and both together; 1 is no seam, None if all images are flat inside
            patches.
    """
    mean = gradients.mean(axis=0)
    pairs = (*mean, mean.sum(axis=0))
    return tuple(float(border / rest) if rest > 0 else None for border, rest in pairs)


def _border_and_rest(
    profile: Float64[np.ndarray, "batch pairs"], patch_size: int
) -> Float64[np.ndarray, "batch 2"]:
    # Pair i is between pixels i and i + 1.
    position = np.arange(1, profile.shape[1] + 1)
    at_border = position % patch_size == 0
    half = patch_size // 2
    inner = (position >= patch_size - half) & (position <= profile.shape[1] + 1 - patch_size + half)
    parts = [profile[:, mask].mean(axis=1) for mask in (at_border, inner & ~at_border)]
    return np.stack(parts, axis=1)


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise UsageError(f"expected two equal shapes, got {list(a.shape)} and {list(b.shape)}")


def _clamped(x: np.ndarray) -> Float64[np.ndarray, "batch 3 height width"]:
    return np.clip(x.astype(np.float64), -1.0, 1.0)


def luma(
    x: Float32[np.ndarray, "batch 3 height width"],
) -> Float64[np.ndarray, "batch height width"]:
    """Luma of BT.601 of images clamped to [-1, 1]: float64 [batch, H, W], 0 to 255."""
    return np.tensordot(_LUMA, (_clamped(x) + 1.0) * 127.5, axes=(0, 1))


def _blocks(levels: np.ndarray) -> Float64[np.ndarray, "batch height width"]:
    """Means over blocks of 2x2 pixels; an odd last line or column is dropped."""
    height, width = (size // 2 for size in levels.shape[1:])
    even = levels[:, : 2 * height, : 2 * width]
    return even.reshape(len(levels), height, 2, width, 2).mean(axis=(2, 4))


def _gradient_magnitude(levels: np.ndarray) -> Float64[np.ndarray, "batch height width"]:
    """Prewitt: the mean of three neighbouring central differences, in either direction."""
    across = levels[:, :, 2:] - levels[:, :, :-2]
    down = levels[:, 2:] - levels[:, :-2]
    gx = (across[:, :-2] + across[:, 1:-1] + across[:, 2:]) / 3.0
    gy = (down[:, :, :-2] + down[:, :, 1:-1] + down[:, :, 2:]) / 3.0
    return np.hypot(gx, gy)
