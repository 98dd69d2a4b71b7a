"""A weight matrix of a scheme: values and scales, the latter searched where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.export.quantize.formats import Format
from minit2i_deploy.export.quantize.rounding.block_scales import (
    E4M3,
    representable_scales,
    tensor_scale,
)
from minit2i_deploy.export.quantize.schemes import GraphScheme
from minit2i_deploy.export.quantize.weights import block_for, quantize_weight

# Shares of the scale that maps the largest magnitude to the largest value. Above 1 are those of
# FP4 that map it to 4, where the distance between values is 2 from there to 6: "four over six".
_SHARES: Final = tuple(np.linspace(1.0, 0.5, 21).tolist())
_SHARES_ABOVE: Final = (1.5, 1.4, 1.3, 1.2, 1.1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class QuantizedWeight:
    """A quantized matrix.

    Args:
        values: of the scheme's format [inputs, outputs], with rows of zeros behind the layer's
            own where the blocks have to be complete.
        scale: float32 [outputs], or [blocks, outputs].
        block: input channels that share a scale; 0: all of them.
        tensor: scale of the matrix, by which scales in E4M3 are multiplied.
    """

    values: np.ndarray
    scale: np.ndarray
    block: int
    tensor: np.float32 | None = None

    def dequantize(self) -> Float32[np.ndarray, "inputs outputs"]:
        """float32, with the rows of zeros."""
        scale = np.repeat(self.scale, self.block, axis=0) if self.block else self.scale
        return np.asarray(self.values.astype(np.float32) * scale)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockRounding:
    """How the blocks of one matrix are rounded.

    Args:
        form: of the values.
        kind: of the scales, as in ``representable_scales``.
        tensor: scale of the matrix.
        searched: whether several scales are tried.
    """

    form: Format
    kind: str
    tensor: np.float32 | None
    searched: bool

    @classmethod
    def of(
        cls, weight: Float32[np.ndarray, "inputs outputs"], scheme: GraphScheme, searched: bool
    ) -> BlockRounding:
        """Of a matrix and its scheme."""
        form = scheme.weights
        tensor = None
        if scheme.scale_format == E4M3:
            # A scale that maps the largest magnitude to 4 has to be representable as well.
            room = form.largest / 4 if searched else 1.0
            tensor = tensor_scale(float(np.abs(weight).max()) * room, form)
        return cls(form=form, kind=scheme.scale_format, tensor=tensor, searched=searched)

    def scales(
        self,
        blocks: Float32[np.ndarray, "blocks inputs outputs"],
        importance: Float32[np.ndarray, "blocks inputs"] | None = None,
    ) -> Float32[np.ndarray, "blocks outputs"]:
        """A scale for each block and output.

        Args:
            blocks: of the matrix.
            importance: what an error in a channel counts, its mean square of inputs; None is 1.
        """
        full = np.abs(blocks).max(axis=1) / np.float32(self.form.largest)
        best = representable_scales(full, self.kind, self.tensor)
        if not self.searched:
            return best
        least = np.full(full.shape, np.inf)
        shares = _SHARES + (_SHARES_ABOVE if self.form.name == "fp4" else ())
        for share in shares:
            scale = representable_scales(full * np.float32(share), self.kind, self.tensor)
            error = np.square(self.form.round_trip(blocks, scale[:, None]) - blocks)
            if importance is not None:
                error *= importance[:, :, None]
            total = error.sum(axis=1, dtype=np.float64)
            best = np.where(total < least, scale, best)
            least = np.minimum(total, least)
        return best


def pad_inputs(
    weight: Float32[np.ndarray, "inputs outputs"], scheme: GraphScheme
) -> Float32[np.ndarray, "padded outputs"]:
    """The matrix with as many rows of zeros as complete blocks need."""
    padded: np.ndarray = np.pad(weight, ((0, scheme.padding(len(weight))), (0, 0)))
    return padded


def quantize_matrix(
    weight: Float32[np.ndarray, "inputs outputs"],
    scheme: GraphScheme,
    *,
    searched: bool = False,
    importance: Float32[np.ndarray, " inputs"] | None = None,
) -> QuantizedWeight:
    """Round a matrix to the nearest values.

    Args:
        weight: float32 [inputs, outputs].
        scheme: formats and block.
        searched: try several scales and take the best of each block.
        importance: what an error of each input channel counts; None is 1.
    """
    block = block_for(len(weight), scheme.block) if not scheme.scale_format else scheme.block
    if not searched and not scheme.scale_format:
        values, scale = quantize_weight(weight, scheme.weights, block, pair_safe=scheme.pair_safe)
        return QuantizedWeight(values=values, scale=scale, block=block)
    padded = pad_inputs(weight, scheme)
    rounding = BlockRounding.of(padded, scheme, searched)
    blocks = padded.reshape(-1, block or len(padded), padded.shape[1])
    weights = None
    if importance is not None:
        full = np.pad(importance, (0, len(padded) - len(weight)))
        weights = full.reshape(blocks.shape[:2]).astype(np.float32)
    scale = rounding.scales(blocks, weights)
    values = scheme.weights.quantize(blocks, scale[:, None]).reshape(padded.shape)
    return QuantizedWeight(
        values=values,
        scale=scale if block else scale[0],
        block=block,
        tensor=rounding.tensor,
    )
