"""Relative error of arrays by two norms: largest difference, and Euclidean distance."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float, Float64

# What stands in for the norm of zeros.
_TINY: Final = float(np.finfo(np.float32).tiny)


def max_relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """max |actual - expected| / max |expected|; NaN if a value is not finite.

    Args:
        actual: of any shape and unit.
        expected: of the same shape, not empty.
    """
    scale = float(np.abs(expected).max())
    return float(np.abs(actual - expected).max()) / max(scale, _TINY)


def l2_relative_errors(
    actual: Float[np.ndarray, "batch ..."], expected: Float[np.ndarray, "batch ..."]
) -> Float64[np.ndarray, " batch"]:
    """|actual - expected| / |expected| by Euclidean norm, for each entry of the first axis.

    Args:
        actual: [batch, ...], of any unit.
        expected: [batch, ...], of the same shape.
    """
    size = len(expected)
    a, b = (values.reshape(size, -1).astype(np.float64) for values in (actual, expected))
    scale = np.maximum(np.linalg.norm(b, axis=1), _TINY)
    errors: Float64[np.ndarray, " batch"] = np.linalg.norm(a - b, axis=1) / scale
    return errors
