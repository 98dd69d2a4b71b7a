"""Exact smoothing: the size of an activation's channels is moved into the weights around it.

For a linear layer y = x W and powers of two s, one per channel: x' = x / s and W' = diag(s) W
give the same y. The division is done in the weight that computes x: the RMSNorm before qkv or
before w1 and w3, the columns of w3 (the product silu(w1 x) * w3 x is linear in them), and the
columns and biases of v (attention is linear in v, channel by channel; both streams' v and both
projections share one s). Because s are powers of two, every product and every partial sum changes
only in its exponent: the smoothed network gives the same bits, in every precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, Int

from minit2i_deploy.export.quantize.graph.linear_layers import Linear
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph

_PROJECTIONS: Final = ("img_attn_proj", "txt_attn_proj", "attn_proj")
# A gate of the heads is a Mul.
_MOVES: Final = ("Reshape", "Transpose", "Slice", "Cast", "Mul")
# Operators that end a norm -> which of their inputs may be its weight. At opset 18 a norm ends with
# a product; --for cuda has onnxruntime's own operator, whose first output is the norm.
_NORMS: Final = {
    "RMSNormalization": (1,),
    "SkipSimplifiedLayerNormalization": (2,),
    "Mul": (0, 1),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """Part of a weight that computes a smoothed value: its last axis from ``begin`` on."""

    weight: str
    begin: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothGroup:
    """Layers whose inputs are smoothed by one vector.

    Args:
        name: of the first layer.
        layers: those that read the smoothed value; of both streams after attention, and in every
            pass of a loop.
        sources: the weights that compute it.
        channels: of the value.
    """

    name: str
    layers: tuple[Linear, ...]
    sources: tuple[Slot, ...]
    channels: int


def smooth_groups(step: QuantizableGraph) -> tuple[SmoothGroup, ...]:
    """The groups of a step graph, in the order they run; a layer outside them is not smoothed."""
    layers = step.linears
    groups = [
        *_norm_groups(step.readers(), _norm_weights(step)),
        *_gate_groups(layers),
        *_value_groups(step.graph, layers),
    ]
    order = {layer.name: index for index, layer in enumerate(layers)}
    return tuple(sorted(groups, key=lambda group: order[group.name]))


def ungrouped_layers(step: QuantizableGraph, groups: Sequence[SmoothGroup]) -> frozenset[str]:
    """Names of layers behind no weight that smoothing could divide, in a form that it knows.

    Projections of exclusive attention are not among them: no form of the graph changes that.

    Args:
        step: graph.
        groups: of it, from ``smooth_groups``.
    """
    grouped = {layer.name for group in groups for layer in group.layers}
    names = {layer.name for layer in step.linears} - grouped
    return frozenset(name for name in names if name.rpartition(".")[2] not in _PROJECTIONS)


def _norm_weights(step: QuantizableGraph) -> dict[str, str]:
    """Value that layers read -> weight of the norm before it; the passes of a loop share one.

    Both may be cast, as in bfloat16. A weight that another node reads too, or whose norm is read by
    another node than a layer, is not among them.
    """
    graph, layers = step.graph, {layer.node for layer in step.linears}
    nodes = graph.model.graph.node
    makers = {output: index for index, node in enumerate(nodes) for output in node.output}
    casts = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Cast"}
    readers: dict[str, set[int]] = {}
    for index, node in enumerate(nodes):
        if node.op_type != "Cast":
            for value in node.input:
                readers.setdefault(_before_casts(casts, value), set()).add(index)
    norms: dict[str, str] = {}
    by_weight: dict[str, set[int]] = {}
    for layer in step.linears:
        output = _before_casts(casts, layer.source)
        index = makers.get(output, -1)
        if index < 0 or output != nodes[index].output[0] or not readers[output] <= layers:
            continue
        node = nodes[index]
        for place in _NORMS.get(node.op_type, ()):
            weight = _before_casts(casts, node.input[place])
            values = graph.weights.get(weight)
            if values is not None and values.shape == (layer.num_inputs,):
                norms[layer.source] = weight
                by_weight.setdefault(weight, set()).add(index)
    return {
        source: weight for source, weight in norms.items() if readers[weight] == by_weight[weight]
    }


def _before_casts(casts: Mapping[str, str], value: str) -> str:
    while value in casts:
        value = casts[value]
    return value


def _norm_groups(
    by_site: Mapping[str, Sequence[Linear]], norms: Mapping[str, str]
) -> Iterator[SmoothGroup]:
    by_norm: dict[str, list[Linear]] = {}
    for readers in by_site.values():
        if readers[0].source in norms:
            by_norm.setdefault(norms[readers[0].source], []).extend(readers)
    for weight, readers in by_norm.items():
        yield SmoothGroup(
            name=readers[0].name,
            layers=tuple(readers),
            sources=(Slot(weight=weight),),
            channels=readers[0].num_inputs,
        )


def _gate_groups(layers: Sequence[Linear]) -> Iterator[SmoothGroup]:
    by_name: dict[str, list[Linear]] = {}
    for layer in layers:
        by_name.setdefault(layer.name, []).append(layer)
    for name, uses in by_name.items():
        block, _, last = name.rpartition(".")
        if last == "w2":
            yield SmoothGroup(
                name=name,
                layers=tuple(uses),
                sources=(Slot(weight=by_name[f"{block}.w3"][0].weight),),
                channels=uses[0].num_inputs,
            )


def _value_groups(graph: Graph, layers: Sequence[Linear]) -> Iterator[SmoothGroup]:
    """Attention outputs: both streams of a block meet in one attention, so they share a vector.

    Exclusive attention is not linear in v channel by channel, so its blocks have no group.
    """
    exclusive = _exclusive_values(graph)
    blocks: dict[str, list[Linear]] = {}
    for layer in layers:
        block, _, last = layer.name.rpartition(".")
        if last in _PROJECTIONS and layer.source not in exclusive:
            blocks.setdefault(block, []).append(layer)
    for block, readers in blocks.items():
        width = readers[0].num_inputs
        names = dict.fromkeys(layer.name for layer in layers)
        sources = [
            Slot(weight=name + suffix, begin=2 * width)
            for name in names
            if name.rpartition(".")[0] == block and name.endswith("qkv")
            for suffix in (".weight", ".bias")
        ]
        assert all(slot.weight in graph.weights for slot in sources)
        yield SmoothGroup(
            name=readers[0].name, layers=tuple(readers), sources=tuple(sources), channels=width
        )


def _exclusive_values(graph: Graph) -> frozenset[str]:
    """Values that only move or scale the difference that exclusive attention ends with."""
    exclusive: set[str] = set()
    for node in graph.model.graph.node:
        difference = node.op_type == "Sub" and node.input[0] not in graph.weights
        if difference or (node.op_type in _MOVES and node.input[0] in exclusive):
            exclusive.update(node.output)
    return frozenset(exclusive)


def smoothing_exponents(
    inputs: Float32[np.ndarray, " channels"],
    weights: Float32[np.ndarray, " channels"],
    alpha: float,
) -> Int[np.ndarray, " channels"]:
    """Powers of two near max|x|^alpha / max|W|^(1 - alpha), divided by their median.

    Args:
        inputs: largest magnitude of each channel of x.
        weights: largest magnitude of each input channel of W.
        alpha: strength, 0 to 1: the share of the inputs' spread that the weights take over.

    Returns:
        int exponents k, s = 2**k; 0 where a channel is always zero.

    Source: SmoothQuant, Xiao et al. 2211.10438 equation 4, rounded to powers of two.
    """
    live = (inputs > 0) & (weights > 0)
    ratio = np.zeros(inputs.shape)
    ratio[live] = alpha * np.log2(inputs[live]) - (1 - alpha) * np.log2(weights[live])
    if live.any():
        # Only ratios between channels matter; a common factor could push weights out of range.
        ratio[live] -= np.round(np.median(ratio[live]))
    exponents: np.ndarray = np.rint(ratio).astype(np.int64)
    return exponents


def apply_smoothing(
    step: QuantizableGraph, exponents: Mapping[str, Int[np.ndarray, " channels"]]
) -> QuantizableGraph:
    """The same network with smoothed values.

    Args:
        step: not changed.
        exponents: by group name, k of s = 2**k; groups that are not named stay as they are.
    """
    weights = dict(step.graph.weights)
    for group in smooth_groups(step):
        if group.name not in exponents:
            continue
        power = exponents[group.name]
        for slot in group.sources:
            values = np.array(weights[slot.weight])
            values[..., slot.begin :] = _scaled(values[..., slot.begin :], -power)
            weights[slot.weight] = values
        for weight in dict.fromkeys(layer.weight for layer in group.layers):
            weights[weight] = _scaled(weights[weight], power[:, None])
    return step.with_weights(weights)


def _scaled(values: np.ndarray, power: np.ndarray) -> np.ndarray:
    """values * 2**power in the values' own type, where it is exact."""
    scaled: np.ndarray = np.ldexp(values.astype(np.float32), power).astype(values.dtype)
    return scaled
