"""Structural similarity, in numpy."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality.image_metrics import luma

WINDOW: Final = 11
SIGMA: Final = 1.5
_PEAK: Final = 255.0
_C1, _C2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2


def ssim(
    a: Float32[np.ndarray, "batch 3 height width"],
    b: Float32[np.ndarray, "batch 3 height width"],
) -> Float64[np.ndarray, " batch"]:
    """Mean structural similarity of the luma, at one scale.

    Args:
        a: float32 [batch, 3, H, W], -1 black to 1 white; values outside are clamped.
        b: float32 [batch, 3, H, W], what a is compared with.

    Returns:
        float64 [batch], 1 equal, lower is worse.

    Raises:
        UsageError: two shapes, or images smaller than the window.

    Source: Wang et al., Image quality assessment: from error visibility to structural similarity
    (2004), equation 13 with the paper's window, 11x11 Gaussian of 1.5 pixels, and constants; only
    where the window lies inside the image, and without the reduction of large images that the
    authors suggest.
    """
    if a.shape != b.shape or min(a.shape[2:]) < WINDOW:
        raise UsageError(
            f"expected two equal shapes of at least {WINDOW}x{WINDOW} pixels, got {list(a.shape)} "
            f"and {list(b.shape)}"
        )
    p, q = luma(a), luma(b)
    mean_p, mean_q = _blur(p), _blur(q)
    variance_p = _blur(p * p) - mean_p**2
    variance_q = _blur(q * q) - mean_q**2
    covariance = _blur(p * q) - mean_p * mean_q
    numerator = (2 * mean_p * mean_q + _C1) * (2 * covariance + _C2)
    denominator = (mean_p**2 + mean_q**2 + _C1) * (variance_p + variance_q + _C2)
    return (numerator / denominator).mean(axis=(1, 2))


def _blur(values: np.ndarray) -> Float64[np.ndarray, "batch rows columns"]:
    """The Gaussian mean around every pixel whose window lies inside the image."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW, axis=axis)
        values = windows @ weights
    return values
