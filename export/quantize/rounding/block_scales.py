"""Scales of blocks as hardware formats store them: E4M3 times a tensor's scale, or E8M0.

NVFP4 has blocks of 16 values in E2M1 with a scale in E4M3, times one scale of the tensor; MXFP8 has
blocks of 32 values in E4M3 with a power of two. Source: OCP Microscaling Formats 1.0; TensorRT's
IDynamicQuantizeLayer.
"""

from __future__ import annotations

from typing import Final

import ml_dtypes
import numpy as np
from jaxtyping import Float32, UInt8

from minit2i_deploy.export.quantize.formats import FP8, Format, round_scale

E4M3: Final = "e4m3"
E8M0: Final = "e8m0"
_LEAST_E4M3: Final = 2.0**-9
_E8M0_BIAS: Final = 127


def power_of_two_above(values: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """The least power of two that is not below each value: float32, 2**-126 at the least."""
    fraction, exponent = np.frexp(np.maximum(values, np.float32(2.0**-126)))
    powers: np.ndarray = np.ldexp(np.float32(1), exponent - (fraction == 0.5))
    return powers.astype(np.float32)


def tensor_scale(absmax: float, form: Format) -> np.float32:
    """Scale of a tensor whose blocks have E4M3 scales: a power of two.

    Powers of two make every product of both scales exact in float16, bfloat16 and float32.
    """
    ratio = np.array([absmax], np.float32) / np.float32(form.largest * FP8.largest)
    return np.float32(power_of_two_above(ratio)[0])


def representable_scales(
    ideal: Float32[np.ndarray, "..."], kind: str, tensor: np.float32 | None = None
) -> Float32[np.ndarray, "..."]:
    """Scales that can be stored, near to the ideal ones.

    Args:
        ideal: float32, not negative.
        kind: E4M3 (the nearest), E8M0 (not below, so that nothing saturates), or "" for
            ``formats.round_scale``.
        tensor: scale of the tensor, for E4M3 alone.
    """
    if kind == E8M0:
        return power_of_two_above(ideal)
    if kind == E4M3:
        assert tensor is not None
        ratio = np.clip(ideal / tensor, _LEAST_E4M3, FP8.largest)
        rounded: np.ndarray = ratio.astype(FP8.dtype).astype(np.float32) * tensor
        return rounded
    return round_scale(ideal)


def e4m3_codes(scales: Float32[np.ndarray, "..."], tensor: np.float32) -> np.ndarray:
    """Representable scales as float8_e4m3fn, to be multiplied by the tensor's scale."""
    codes: np.ndarray = (scales / tensor).astype(ml_dtypes.float8_e4m3fn)
    return codes


def e8m0_codes(scales: Float32[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Powers of two as biased exponents: uint8, 127 for 1."""
    codes: np.ndarray = (np.frexp(scales)[1] - 1 + _E8M0_BIAS).astype(np.uint8)
    return codes


def scales_of_codes(codes: UInt8[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """What E8M0 codes stand for: float32."""
    scales: np.ndarray = np.ldexp(np.float32(1), codes.astype(np.int32) - _E8M0_BIAS)
    return scales.astype(np.float32)


def input_scales(
    x: Float32[np.ndarray, "n channels"],
    form: Format,
    block: int,
    kind: str,
    tensor: np.float32 | None = None,
) -> Float32[np.ndarray, "n channels"]:
    """Scales of every token's blocks as TensorRT's operators take them, one for each value.

    Args:
        x: float32 [n, channels].
        form: of the rounded values.
        block: channels that share a scale; the last block may be incomplete.
        kind: E4M3 or E8M0.
        tensor: scale of the tensor, for E4M3; scales of 0 are possible.
    """
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % block)))
    largest = np.abs(padded.reshape(len(x), -1, block)).max(axis=2)
    if kind == E8M0:
        scales = representable_scales(largest * np.float32(1 / form.largest), kind)
    else:
        assert tensor is not None
        ratio = np.minimum(largest / (tensor * np.float32(form.largest)), np.float32(FP8.largest))
        scales = ratio.astype(FP8.dtype).astype(np.float32) * tensor
    return np.asarray(np.repeat(scales, block, axis=1)[:, : x.shape[1]])
