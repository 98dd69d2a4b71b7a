"""GPTQ: each input channel is rounded so that the channels after it make up for its error.

Source: Frantar et al. 2210.17323, algorithm 1, with a block's scales chosen when its turn comes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float32, Float64

from minit2i_deploy.export.quantize.rounding.matrix import (
    BlockRounding,
    QuantizedWeight,
    pad_inputs,
)
from minit2i_deploy.export.quantize.schemes import GraphScheme
from minit2i_deploy.export.quantize.weights import block_for

# Share of the mean square that every channel is taken to have besides its own: stored inputs are
# samples, and a channel that they do not show must not be rounded at will.
DAMPING: Final = 0.001
# Channels rounded before the rest of the matrix is updated.
_BATCH: Final = 64


def second_moments(
    inputs: Float32[np.ndarray, "n channels"],
) -> Float64[np.ndarray, "channels channels"]:
    """Mean products of all pairs of channels, damped."""
    moments = (inputs.T @ inputs).astype(np.float64) / len(inputs)
    mean = max(float(np.trace(moments)) / len(moments), float(np.finfo(np.float32).tiny))
    moments[np.diag_indices(len(moments))] += DAMPING * mean
    return moments


def quantize_by_gptq(
    weight: Float32[np.ndarray, "inputs outputs"],
    scheme: GraphScheme,
    moments: Float64[np.ndarray, "inputs inputs"],
) -> QuantizedWeight:
    """Round a matrix so that its products with inputs of these second moments stay the same.

    Args:
        weight: float32 [inputs, outputs].
        scheme: formats and block.
        moments: of the inputs, by ``second_moments``.
    """
    padded = pad_inputs(weight, scheme)
    block = scheme.block if scheme.scale_format else block_for(len(weight), scheme.block)
    rounding = BlockRounding.of(padded, scheme, searched=True)
    full = np.eye(len(padded)) * float(moments[0, 0])
    full[: len(weight), : len(weight)] = moments
    # Upper factor of the inverse: row i has what an error of channel i costs the later ones.
    factor = np.linalg.cholesky(np.linalg.inv(full)).T.astype(np.float32)
    importance = np.diag(full).astype(np.float32)
    rest, values, scales = padded.copy(), np.empty(padded.shape, scheme.weights.dtype), []
    size = block or len(padded)
    for begin in range(0, len(padded), size):
        end = begin + size
        scale = rounding.scales(rest[None, begin:end], importance[None, begin:end])[0]
        scales.append(scale)
        for start in range(begin, end, _BATCH):
            _round_batch(
                rest, values, scale, factor, scheme, slice(start, min(start + _BATCH, end))
            )
    scale = np.stack(scales) if block else scales[0]
    return QuantizedWeight(values=values, scale=scale, block=block, tensor=rounding.tensor)


def _round_batch(
    rest: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray,
    factor: np.ndarray,
    scheme: GraphScheme,
    batch: slice,
) -> None:
    """Round some channels, in place, and take their errors from all later ones."""
    form = scheme.weights
    errors = np.empty((batch.stop - batch.start, rest.shape[1]), np.float32)
    for offset, channel in enumerate(range(batch.start, batch.stop)):
        values[channel] = form.quantize(rest[channel], scale)
        error = (rest[channel] - form.dequantize(values[channel], scale)) / factor[channel, channel]
        later = slice(channel + 1, batch.stop)
        rest[later] -= np.outer(factor[channel, later], error)
        errors[offset] = error
    rest[batch.stop :] -= factor[batch, batch.stop :].T @ errors
