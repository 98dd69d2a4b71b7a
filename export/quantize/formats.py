"""Number formats of quantized values, and their scales: numpy in, numpy out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Num

# Scales are rounded up to this many bits of mantissa (the leading one included), which float16,
# bfloat16 and float32 all hold: one scale serves every base precision, and the last bits of a
# machine's sums are rounded away.
SCALE_BITS: Final = 8
# The least scale that float16 holds with all SCALE_BITS.
LEAST_SCALE: Final = 2.0**-17


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format that values are rounded to after division by a scale.

    Args:
        name: int8, int4, fp8 or fp4.
        largest: the largest value.
        least: the most negative one; of integers one more than the largest.
        dtype: of the rounded values; 4-bit types have two values a byte only in a file.
    """

    name: str
    largest: float
    least: float
    dtype: np.dtype[Any]

    @property
    def is_float(self) -> bool:
        """Whether the distance between neighbouring values grows with the values."""
        return self.name.startswith("fp")

    def quantize(
        self, x: Float32[np.ndarray, "..."], scale: Float32[np.ndarray, "..."]
    ) -> Num[np.ndarray, "..."]:
        """Round x / scale, half to even, and saturate.

        Args:
            x: float32, any shape.
            scale: float32, positive, broadcast against x.

        Returns:
            values of ``dtype``, shaped as x.

        Source: ONNX operator QuantizeLinear with zero point 0.
        """
        ratio = np.clip(x / scale, self.least, self.largest)
        rounded: np.ndarray = (ratio if self.is_float else np.rint(ratio)).astype(self.dtype)
        return rounded

    def dequantize(
        self, q: Num[np.ndarray, "..."], scale: Float32[np.ndarray, "..."]
    ) -> Float32[np.ndarray, "..."]:
        """q * scale in float32; ONNX operator DequantizeLinear with zero point 0."""
        values: np.ndarray = q.astype(np.float32) * scale
        return values

    def round_trip(
        self, x: Float32[np.ndarray, "..."], scale: Float32[np.ndarray, "..."]
    ) -> Float32[np.ndarray, "..."]:
        """x after rounding to the format: float32, shaped as x."""
        return self.dequantize(self.quantize(x, scale), scale)

    def scale_of(self, absmax: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """Scale that maps a magnitude to the largest value: float32, rounded by ``round_scale``."""
        return round_scale(absmax / np.float32(self.largest))


INT8: Final = Format(name="int8", largest=127.0, least=-128.0, dtype=np.dtype(np.int8))
INT4: Final = Format(name="int4", largest=7.0, least=-8.0, dtype=np.dtype(ml_dtypes.int4))
FP8: Final = Format(
    name="fp8", largest=448.0, least=-448.0, dtype=np.dtype(ml_dtypes.float8_e4m3fn)
)
# E2M1: 0, 0.5, 1, 1.5, 2, 3, 4 and 6, with signs.
FP4: Final = Format(name="fp4", largest=6.0, least=-6.0, dtype=np.dtype(ml_dtypes.float4_e2m1fn))
# Types of which a file has two values a byte.
PACKED_DTYPES: Final = ("int4", "float4_e2m1fn")


def round_scale(scale: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Round up to SCALE_BITS of mantissa, and to LEAST_SCALE at the least: float32.

    Up, so that no value that fitted saturates.
    """
    fraction, exponent = np.frexp(np.maximum(scale, np.float32(LEAST_SCALE)))
    steps = np.ceil(fraction.astype(np.float64) * 2**SCALE_BITS)
    rounded: np.ndarray = np.ldexp(steps, exponent - SCALE_BITS).astype(np.float32)
    return rounded
