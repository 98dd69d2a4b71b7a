"""States and their amplified difference as PNG bytes."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.images import to_pil

GAIN: Final = 10.0


def png_bytes(x: Float32[np.ndarray, "3 height width"]) -> bytes:
    """A state as a PNG file: float32 [3, H, W], -1 black to 1 white, values outside clamped.

    Raises:
        RuntimeFailure: NaN or infinity.
    """
    (image,) = to_pil(x[None])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=9)
    return buffer.getvalue()


def amplified_difference(
    a: Float32[np.ndarray, "3 height width"],
    b: Float32[np.ndarray, "3 height width"],
    gain: float = GAIN,
) -> Float32[np.ndarray, "3 height width"]:
    """The difference around mid grey: grey if equal, brighter where b is brighter.

    Args:
        a: float32 [3, H, W], -1 black to 1 white; values outside are clamped, as in images.
        b: float32 [3, H, W].
        gain: factor of the difference, above 0.

    Returns:
        float32 [3, H, W], gain * (b - a), clamped to [-1, 1].

    Raises:
        UsageError: a gain that is not positive and finite.
    """
    if not 0.0 < gain < np.inf:
        raise UsageError(f"gain: expected a positive number, got {gain!r}")
    first, second = (np.clip(x, -1.0, 1.0) for x in (a, b))
    return np.clip(np.float32(gain) * (second - first), -1.0, 1.0)
