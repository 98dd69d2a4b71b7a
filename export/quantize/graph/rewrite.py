"""Quantise the linear layers of a graph with the standard ONNX operators, weights and all.

Static: QuantizeLinear and DequantizeLinear around the input, once a value however many layers
read it, and DequantizeLinear on the stored weight. Dynamic: DynamicQuantizeLinear and
MatMulInteger. Residual adds, norms and attention products stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.formats import Format
from minit2i_deploy.export.quantize.graph.linear_layers import (
    Linear,
    default_exclusions,
    linear_layers,
)
from minit2i_deploy.export.quantize.graph.measured_values import attention_sites
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.schemes import GraphScheme
from minit2i_deploy.export.quantize.weights import block_for, quantise_weight

# Blocks and float16 scales came to Q/DQ with this opset; QuantizeLinear to FP8 with 19.
LEAST_OPSET: Final = 21


@dataclass(kw_only=True)
class _Edit:
    """What is being built."""

    scheme: GraphScheme
    scales: Mapping[str, float]
    weights: dict[str, np.ndarray]
    added: list[TensorProto] = field(default_factory=list)
    before: dict[int, list[NodeProto]] = field(default_factory=dict)
    quantised: dict[str, str] = field(default_factory=dict)


def quantize_graph(
    graph: Graph,
    scheme: GraphScheme,
    scales: Mapping[str, float],
    *,
    exclude: Collection[str] = (),
) -> Graph:
    """A graph with its linear layers quantised.

    Args:
        graph: what ``read_graph`` gave, smoothed or not; it is not changed.
        scheme: formats, for example ``find_scheme("int8").transformer``. Its own ``exclude`` is
            not looked at; ``default_exclusions`` turns it into names.
        scales: scale of every site's values, by ``Linear.site`` and, with attention, by the names
            of ``attention_sites``; empty for weight-only and dynamic schemes.
        exclude: names of layers that stay as they are.

    Returns:
        the graph, whose weights are of the scheme's format, each beside ``<name>.scale`` (one an
        output channel, or one a block and output channel), and ``<site>.input.scale`` for inputs.

    Raises:
        UsageError: a scale is missing, the graph's opset is below LEAST_OPSET, or the scheme
            quantises attention and the graph has no Attention node.
    """
    check_graph(graph, scheme)
    edit = _Edit(scheme=scheme, scales=scales, weights=dict(graph.weights))
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    replaced: dict[int, list[NodeProto]] = {}
    layers = linear_layers(graph)
    light = default_exclusions(layers, scheme.weights_only)
    for layer in layers:
        if layer.name in exclude:
            continue
        if layer.name in light:
            _weight_only(edit, layer, model.graph.node[layer.node])
        elif scheme.dynamic:
            replaced[layer.node] = _dynamic(edit, layer)
        else:
            _static(edit, layer, model.graph.node[layer.node])
    if scheme.attention is not None:
        _attention(edit, graph, model, scheme.attention)
    _rebuild(model, edit, replaced)
    return Graph(model=model, weights=edit.weights, transposed=graph.transposed)


def check_graph(graph: Graph, scheme: GraphScheme) -> None:
    """Refuse a graph that lacks what a scheme needs.

    Raises:
        UsageError: its opset is below LEAST_OPSET, whose Q/DQ operators are too old, or the scheme
            quantises attention and no Attention node is there.
    """
    opsets = graph.model.opset_import
    opset = next(item.version for item in opsets if item.domain in ("", "ai.onnx"))
    if opset < LEAST_OPSET:
        raise UsageError(
            f"the graph has opset {opset}, but Q/DQ of half precision and in blocks need"
            f" {LEAST_OPSET}; export at opset 23, the default"
        )
    if scheme.attention is not None and not attention_sites(graph):
        raise UsageError(
            "the scheme quantises attention, but the graph has no Attention node, as one that was"
            " exported --for cpu; export the checkpoint again without --for"
        )


def _static(edit: _Edit, layer: Linear, node: NodeProto) -> None:
    base = edit.weights[layer.weight].dtype
    if edit.scheme.activations is not None:
        node.input[0] = _round_trip(
            edit, layer.source, layer.site + ".input", layer.site, layer.node, base
        )
    _weight_only(edit, layer, node)


def _weight_only(edit: _Edit, layer: Linear, node: NodeProto) -> None:
    base = edit.weights[layer.weight].dtype
    block = block_for(layer.num_inputs, edit.scheme.block)
    scale = _store_weight(edit, layer, block, base)
    axis: dict[str, Any] = {"axis": 0, "block_size": block} if block else {"axis": 1}
    output = layer.weight + ".dequantised"
    dequantise = helper.make_node(
        "DequantizeLinear", [layer.weight, scale], [output], name=output, **axis
    )
    edit.before.setdefault(layer.node, []).append(dequantise)
    node.input[1] = output


def _store_weight(edit: _Edit, layer: Linear, block: int, base: np.dtype[Any]) -> str:
    weight = np.asarray(edit.weights[layer.weight], dtype=np.float32)
    values, scale = quantise_weight(weight, edit.scheme.weights, block)
    name = layer.weight + ".scale"
    edit.weights[layer.weight] = values
    edit.weights[name] = scale.astype(base)
    return name


def _round_trip(
    edit: _Edit, value: str, label: str, site: str, index: int, base: np.dtype[Any]
) -> str:
    """Q/DQ of a value before a node, once; returns the name to read in its place."""
    if value in edit.quantised:
        return edit.quantised[value]
    if site not in edit.scales:
        raise UsageError(f"no scale came for {site}; calibrate this graph")
    chosen = edit.scheme.activations or edit.scheme.weights
    scale, zero = label + ".scale", _zero(edit, chosen)
    edit.weights[scale] = np.array(edit.scales[site], dtype=base)
    rounded, back = label + ".quantised", label + ".dequantised"
    edit.before.setdefault(index, []).extend(
        [
            helper.make_node("QuantizeLinear", [value, scale, zero], [rounded], name=rounded),
            helper.make_node("DequantizeLinear", [rounded, scale, zero], [back], name=back),
        ]
    )
    edit.quantised[value] = back
    return back


def _zero(edit: _Edit, chosen: Format) -> str:
    """A zero point: it gives QuantizeLinear its type in every engine."""
    name = f"_zero.{chosen.name}"
    if all(tensor.name != name for tensor in edit.added):
        kind = helper.np_dtype_to_tensor_dtype(chosen.dtype)
        raw = np.zeros((), chosen.dtype).tobytes()
        edit.added.append(helper.make_tensor(name, kind, (), raw, raw=True))
    return name


def _attention(edit: _Edit, graph: Graph, model: onnx.ModelProto, chosen: Format) -> None:
    assert edit.scheme.activations is chosen
    base = next(edit.weights[layer.weight + ".scale"].dtype for layer in linear_layers(graph))
    for site in attention_sites(graph):
        node = model.graph.node[site.node]
        node.input[site.input] = _round_trip(
            edit, site.value, site.name, site.name, site.node, base
        )


def _dynamic(edit: _Edit, layer: Linear) -> list[NodeProto]:
    """Nodes in the place of a MatMul, in the order that onnxruntime fuses."""
    base = edit.weights[layer.weight].dtype
    scale = _store_weight(edit, layer, 0, base)
    label = layer.site + ".input"
    measured = [f"{label}.{part}" for part in ("quantised", "scale", "zero")]
    nodes = []
    if layer.source not in edit.quantised:
        edit.quantised[layer.source] = label
        nodes.append(
            helper.make_node("DynamicQuantizeLinear", [layer.source], measured, name=measured[0])
        )
    whole, real, both = (f"{layer.name}.{part}" for part in ("int32", "float", "scale"))
    return [
        *nodes,
        helper.make_node(
            "MatMulInteger", [measured[0], layer.weight, measured[2]], [whole], name=whole
        ),
        helper.make_node("Cast", [whole], [real], name=real, to=TensorProto.FLOAT),
        helper.make_node("Mul", [measured[1], scale], [both], name=both),
        helper.make_node("Mul", [real, both], [layer.output], name=layer.output),
    ]


def _rebuild(model: onnx.ModelProto, edit: _Edit, replaced: dict[int, list[NodeProto]]) -> None:
    nodes: list[NodeProto] = []
    for index, node in enumerate(model.graph.node):
        nodes += edit.before.get(index, [])
        nodes += replaced.get(index, [node])
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in edit.weights]
    large = [_declared(name, values) for name, values in edit.weights.items()]
    # Shapes that the exporter wrote down stay true; types of quantised weights do not.
    values = [info for info in model.graph.value_info if info.name not in edit.weights]
    for target, content in (
        (model.graph.node, nodes),
        (model.graph.initializer, [*large, *kept, *edit.added]),
        (model.graph.value_info, values),
    ):
        held = list(content)
        del target[:]
        target.extend(held)


def _declared(name: str, values: np.ndarray) -> TensorProto:
    """An initializer without its data."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    return TensorProto(name=name, data_type=kind, dims=values.shape)
