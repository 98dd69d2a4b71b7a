"""Exact rotation: blocks of channels are mixed by Hadamard matrices, which spreads large values.

The image stream s of the network is only read through RMSNorm, whose mean square no orthogonal R
changes: norm(s R) = norm(s) R, once the norm's weight is moved into the layers after it. So what
writes the stream is multiplied by R and what reads it by R^T: the patch embedding and positions,
the attention projection and w2 on one side, qkv, w1, w3 and the final layer on the other. Attention
is linear in v, so the channels of each head are rotated in v of both streams and turned back in the
projections. No node is added. The text stream comes from another graph and stays as it is, and so
do the inputs of w2, which a product of two branches computes.

Source: QuaRot, Ashkboos et al. 2404.00456; here no time modulates the norms, as in DiTs it does.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.calibration.ranges import Calibration, round_range
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.smoothing import SmoothGroup, smooth_groups

LARGEST_BLOCK: Final = 64
_TABLE: Final = "_constant.position_table"
_EMBEDDING: Final = "img_embedder.proj2"
_FINAL_NORM: Final = "final_layer.norm_final.weight"
_NORM: Final = re.compile(r"double_blocks\.\d+\.img_norm[12]\.weight")
_WRITER: Final = re.compile(r"double_blocks\.\d+\.(img_attn_proj|img_mlp\.w2)\.(weight|bias)")
_KNOWN: Final = re.compile(
    r"(img_embedder|final_layer)\..*|_constant\..*|double_blocks\.\d+\."
    r"([qk]_norm|(img|txt)_(norm[12]|qkv|attn_proj|mlp\.w[123]))\.(weight|bias)"
)


def hadamard(size: int) -> Float32[np.ndarray, "size size"]:
    """Sylvester's matrix over its norm, so that it is orthogonal and symmetric; size 2**k."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size), np.float32)


def rotation_block(channels: int) -> int:
    """Channels that are mixed: the largest power of two that divides them, to LARGEST_BLOCK."""
    return min(channels & -channels, LARGEST_BLOCK)


def rotate_channels(
    values: Float32[np.ndarray, "..."], channels: int, axis: int = -1
) -> Float32[np.ndarray, "..."]:
    """Mix the blocks of an axis; twice gives the values back, because the blocks are symmetric.

    Args:
        values: float32.
        channels: that a block must divide: of the stream, or of a head.
        axis: whose channels are mixed.
    """
    size = rotation_block(channels)
    last = np.moveaxis(values, axis, -1)
    mixed = (last.reshape(*last.shape[:-1], -1, size) @ hadamard(size)).reshape(last.shape)
    return np.asarray(np.moveaxis(mixed, -1, axis))


def check_rotatable(step: QuantizableGraph) -> None:
    """Refuse what ``rotate_step`` cannot rotate, before anything is computed.

    Raises:
        UsageError: the network is not the plain MM-JiT, lacks one of the weights, or reads the
            weight of a norm otherwise than in a norm in front of layers.
    """
    _check_weights(step.graph.weights)
    _norms(step)


def rotate_step(step: QuantizableGraph) -> QuantizableGraph:
    """The same function with rotated weights, to the rounding of their type.

    Raises:
        UsageError: as ``check_rotatable``.
    """
    check_rotatable(step)
    weights = dict(step.graph.weights)
    width = len(weights[_FINAL_NORM])
    for name, values in step.graph.weights.items():
        if name.startswith(_EMBEDDING):
            weights[name] = _cast(rotate_channels(_wide(values), width, 0), values)
        elif name == _TABLE or _WRITER.fullmatch(name):
            weights[name] = _cast(rotate_channels(_wide(values), width), values)
    norms = _norms(step)
    for layer in step.linears:
        if layer.source in norms:
            values = step.graph.weights[layer.weight]
            gains = _wide(step.graph.weights[norms[layer.source]])
            turned = rotate_channels(_wide(values) * gains[:, None], width, 0)
            weights[layer.weight] = _cast(turned, values)
    for name in set(norms.values()):
        weights[name] = np.ones_like(weights[name])
    _rotate_heads(step, weights)
    return step.with_weights(weights)


def rotate_calibration(step: QuantizableGraph, calibration: Calibration) -> Calibration:
    """What the layers of ``rotate_step(step)`` read, by what those of ``step`` did.

    Ranges are those of the stored activations, because the ranges of mixed channels do not follow
    from those of the channels.

    Raises:
        UsageError: as ``rotate_step``, of the norms.
    """
    activations, absmax = dict(calibration.activations), dict(calibration.absmax)
    norms = _norms(step)
    turned: dict[str, np.ndarray] = {}
    for layer in step.linears:
        if layer.source in norms:
            gains = _wide(step.graph.weights[norms[layer.source]])
            safe = np.where(gains == 0, np.float32(1), gains)
            plain = calibration.activations[layer.site] / safe
            turned[layer.site] = rotate_channels(plain, layer.num_inputs)
    for group, head_dim in _head_groups(step):
        block = group.name.rpartition(".")[0]
        for site in {layer.site for layer in group.layers} | _values_of_attention(step, block):
            # One that was recorded on a graph without Attention nodes lacks their inputs.
            if site in calibration.activations:
                turned[site] = rotate_channels(calibration.activations[site], head_dim)
    for site, values in turned.items():
        activations[site] = np.ascontiguousarray(values)
        strata = len(absmax[site])
        absmax[site] = np.tile(round_range(np.abs(values).max(axis=0)), (strata, 1))
    return dataclasses.replace(calibration, activations=activations, absmax=absmax)


def _check_weights(weights: Mapping[str, np.ndarray]) -> None:
    others = sorted(name for name in weights if not _KNOWN.fullmatch(name))
    missing = [
        name
        for name in (f"{_EMBEDDING}.weight", f"{_EMBEDDING}.bias", _TABLE, _FINAL_NORM)
        if name not in weights
    ]
    if others or missing:
        raise _refusal(f"it has {others[0]}" if others else f"it lacks {missing[0]}")


def _refusal(reason: str) -> UsageError:
    return UsageError(f"this network cannot be rotated ({reason}); quantize it without --rotate")


def _norms(step: QuantizableGraph) -> dict[str, str]:
    """Output of a norm of the image stream -> name of the norm's weight, of every such weight."""
    gains = {name for name in step.graph.weights if _NORM.fullmatch(name) or name == _FINAL_NORM}
    norms = {
        node.output[0]: node.input[1]
        for node in step.graph.model.graph.node
        if len(node.input) > 1 and node.input[1] in gains
    }
    # Where a bfloat16 gain is cast first, or one engine's operator adds and then scales, the layers
    # behind the norm would stay as they are while what writes the stream is rotated.
    missing = gains - {norms[layer.source] for layer in step.linears if layer.source in norms}
    if missing:
        raise _refusal(f"its norms do not read {min(missing)} directly")
    return norms


def _head_groups(step: QuantizableGraph) -> Iterator[tuple[SmoothGroup, int]]:
    """Groups of attention's projections, and the width of a head."""
    for group in smooth_groups(step):
        block, _, last = group.name.rpartition(".")
        if last.endswith("attn_proj"):
            yield group, len(step.graph.weights[f"{block}.q_norm.weight"])


def _values_of_attention(step: QuantizableGraph, block: str) -> set[str]:
    """Sites of v of a block; its last axis is one head or all of them, one after another."""
    return {site.name for site in step.attention if site.name.startswith(f"{block}.attention.v")}


def _rotate_heads(step: QuantizableGraph, weights: dict[str, np.ndarray]) -> None:
    """In v's columns and biases, and in the rows of the projections."""
    for group, head_dim in _head_groups(step):
        for slot in group.sources:
            values = np.array(weights[slot.weight])
            turned = rotate_channels(_wide(values[..., slot.begin :]), head_dim)
            values[..., slot.begin :] = _cast(turned, values)
            weights[slot.weight] = values
        for name in {layer.weight for layer in group.layers}:
            values = weights[name]
            weights[name] = _cast(rotate_channels(_wide(values), head_dim, 0), values)


def _wide(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)


def _cast(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).astype(like.dtype)
