"""Quantize the linear layers of a graph with standard ONNX operators.

An input is rounded by QuantizeLinear and DequantizeLinear, a weight is stored quantized and read
by DequantizeLinear. With one scale per input the pair stands after the value, once however many
layers read it. With a range per token the value is divided by each token's largest magnitude
first, so that the pair's scale is a constant, and the product is multiplied by it afterwards.
Residual adds, norms and attention products stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.formats import INT8, Format
from minit2i_deploy.export.quantize.graph.linear_layers import Linear
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.schemes import LEAST_RANGE, GraphScheme
from minit2i_deploy.export.quantize.weights import block_for, quantize_weight

# Blocks and float16 scales came to Q/DQ with this opset and its IR; QuantizeLinear to FP8 with 19.
_FULL_OPSET: Final = 21
_FULL_IR: Final = 10


def quantize_graph(
    step: QuantizableGraph,
    scheme: GraphScheme,
    scales: Mapping[str, float],
    *,
    exclude: Collection[str] = (),
) -> Graph:
    """A graph with its linear layers quantized.

    Args:
        step: not changed.
        scheme: formats, for example ``find_scheme("int8").transformer``. Its ``exclude`` is not
            applied here; ``match_any`` turns it into names.
        scales: scale of every input, by ``Linear.site``, and with attention by the names of
            ``QuantizableGraph.attention``; empty for schemes that need none.
        exclude: names of layers that are not quantized.

    Returns:
        the graph, whose weights are of the scheme's format, each beside ``<name>.scale`` (one per
        output channel, or per block and output channel), and ``<site>.input.scale`` for inputs.

    Raises:
        UsageError: a scale is missing, or the scheme quantizes attention and the graph has no
            Attention node.
    """
    check_graph(step, scheme)
    model = onnx.ModelProto()
    model.CopyFrom(step.graph.model)
    source = step.graph.weights
    edit = _Edit(scheme=scheme, scales=scales, source=source, weights=dict(source), model=model)
    for layer in step.linears:
        if layer.name not in exclude:
            edit.quantize_layer(layer)
    if scheme.attention is not None:
        edit.quantize_attention(step)
    edit.apply()
    _raise_opset(model, scheme, edit.weights.values())
    return dataclasses.replace(step.graph, model=model, weights=edit.weights, folder=None)


def check_graph(step: QuantizableGraph, scheme: GraphScheme) -> None:
    """Refuse a graph that lacks what a scheme needs.

    Raises:
        UsageError: the scheme quantizes attention and there is no Attention node.
    """
    if scheme.attention is not None and not step.attention:
        raise UsageError(
            "the scheme quantizes attention, but the graph has no Attention node, like one that"
            " was exported --for cpu; export the checkpoint again without --for"
        )


def _raise_opset(
    model: onnx.ModelProto, scheme: GraphScheme, weights: Iterable[np.ndarray]
) -> None:
    """Raise the stamp of an older graph to what its Q/DQ nodes need.

    Exporters write operators of opset 18 and later, whose meaning no later one changed: newer
    versions take more types.
    """
    is_half = any(values.dtype.name in ("float16", "bfloat16") for values in weights)
    if scheme.weights is INT8 and not scheme.block and not is_half:
        return
    for item in model.opset_import:
        if item.domain in ("", "ai.onnx"):
            item.version = max(item.version, _FULL_OPSET)
    model.ir_version = max(model.ir_version, _FULL_IR)


@dataclass(kw_only=True)
class _Edit:
    """A model that is being rewritten.

    Args:
        scheme: of the graph.
        scales: by site.
        source: weights of the graph that is quantized.
        weights: of the model; quantized ones replace the source's.
        model: its nodes are changed in place, new ones are inserted by ``apply``.
        constants: initializers to add.
        before: nodes to insert before a node, by its index.
        after: nodes to insert after it.
        rounded: value -> its name after a Q/DQ pair that several nodes read.
        num_readers: value -> number of layers that read it by token so far.
    """

    scheme: GraphScheme
    scales: Mapping[str, float]
    source: Mapping[str, np.ndarray]
    weights: dict[str, np.ndarray]
    model: onnx.ModelProto
    constants: dict[str, TensorProto] = field(default_factory=dict)
    before: dict[int, list[NodeProto]] = field(default_factory=dict)
    after: dict[int, list[NodeProto]] = field(default_factory=dict)
    rounded: dict[str, str] = field(default_factory=dict)
    num_readers: dict[str, int] = field(default_factory=dict)

    def quantize_layer(self, layer: Linear) -> None:
        scheme = self.scheme.of_layer(layer.name)
        node = self.model.graph.node[layer.node]
        base = self.source[layer.weight].dtype
        if scheme.activations is not None and scheme.per_token:
            self._round_tokens(layer, node, scheme.activations)
        elif scheme.activations is not None:
            label = layer.site + ".input"
            node.input[0] = self._round(layer.source, label, layer.site, layer.node, base)
        node.input[1] = self._store_weight(layer, scheme, base)

    def quantize_attention(self, step: QuantizableGraph) -> None:
        assert self.scheme.activations is self.scheme.attention
        base = step.graph.weights[step.linears[0].weight].dtype
        for site in step.attention:
            node = self.model.graph.node[site.node]
            node.input[site.input] = self._round(site.value, site.name, site.name, site.node, base)

    def apply(self) -> None:
        """Insert the nodes, and declare the weights' new types and shapes."""
        nodes: list[NodeProto] = []
        for index, node in enumerate(self.model.graph.node):
            nodes += [*self.before.get(index, []), node, *self.after.get(index, [])]
        graph = self.model.graph
        small = [tensor for tensor in graph.initializer if tensor.name not in self.weights]
        large = [_declare(name, values) for name, values in self.weights.items()]
        # Shapes that the exporter wrote down stay true; types of quantized weights do not.
        values = [info for info in graph.value_info if info.name not in self.weights]
        for target, content in (
            (graph.node, nodes),
            (graph.initializer, [*large, *small, *self.constants.values()]),
            (graph.value_info, values),
        ):
            copies = [type(item).FromString(item.SerializeToString()) for item in content]
            del target[:]
            target.extend(copies)

    def _store_weight(self, layer: Linear, scheme: GraphScheme, base: np.dtype[Any]) -> str:
        """Returns the name of the dequantized weight; every pass of a loop reads the same."""
        output = layer.weight + ".dequantized"
        if layer.label != layer.name:
            return output
        block = block_for(layer.num_inputs, scheme.block)
        matrix = np.asarray(self.source[layer.weight], dtype=np.float32)
        values, scales = quantize_weight(matrix, scheme.weights, block, pair_safe=scheme.pair_safe)
        scale = layer.weight + ".scale"
        self.weights[layer.weight], self.weights[scale] = values, scales.astype(base)
        axis: dict[str, Any] = {"axis": 0, "block_size": block} if block else {"axis": 1}
        self._insert(layer.node, "DequantizeLinear", [layer.weight, scale], output, **axis)
        return output

    def _round(self, value: str, label: str, site: str, index: int, base: np.dtype[Any]) -> str:
        """A Q/DQ pair before a node, shared by all readers; returns the name of its output."""
        if value in self.rounded:
            return self.rounded[value]
        if site not in self.scales:
            raise UsageError(f"no scale for {site}; calibrate this graph")
        scale = label + ".scale"
        self.weights[scale] = np.array(self.scales[site], dtype=base)
        form = self.scheme.activations or self.scheme.weights
        self.rounded[value] = self._insert_pair(index, value, label, scale, form)
        return self.rounded[value]

    def _round_tokens(self, layer: Linear, node: NodeProto, form: Format) -> None:
        """Divide every token by its largest magnitude, round, and multiply the product by it.

        No token depends on another, so the images of a batch do not depend on each other either.
        """
        label, count = layer.site + ".input", self.num_readers.get(layer.source, 0)
        self.num_readers[layer.source] = count + 1
        ratio, largest = f"{label}.ratio", f"{label}.range"
        if count == 0:
            self._insert_ranges(layer, label, ratio, largest)
        # onnxruntime merges equal pairs, and then fuses neither of the products that read one, so
        # every reader has a scale of its own. At 127.5 the error of the largest value is half a
        # step, like any other's.
        levels = form.largest + (2.0**-count if count else 0.0)
        scale = self._constant(f"_ratio.scale.{levels:g}", np.float32(1 / levels))
        node.input[0] = self._insert_pair(layer.node, ratio, f"{layer.label}.ratio", scale, form)
        product = f"{layer.output}.ratio"
        node.output[0] = product
        multiply = helper.make_node("Mul", [product, largest], [layer.output], name=layer.output)
        self.after[layer.node] = [multiply]

    def _insert_ranges(self, layer: Linear, label: str, ratio: str, largest: str) -> None:
        axes = self._constant("_last_axis", np.array([-1], np.int64))
        least = self._constant("_least_range", np.float32(LEAST_RANGE))
        high, low, magnitude = (f"{label}.{part}" for part in ("high", "low", "magnitude"))
        # Two reductions read the value once each; Abs would write it to memory again.
        self._insert(layer.node, "ReduceMax", [layer.source, axes], high)
        self._insert(layer.node, "ReduceMin", [layer.source, axes], low)
        self._insert(layer.node, "Neg", [low], magnitude)
        self._insert(layer.node, "Max", [high, magnitude, least], largest)
        self._insert(layer.node, "Div", [layer.source, largest], ratio)

    def _insert_pair(self, index: int, value: str, label: str, scale: str, form: Format) -> str:
        rounded, output = label + ".quantized", label + ".dequantized"
        # A zero point gives QuantizeLinear its type in every engine.
        zero = self._constant(f"_zero.{form.name}", np.zeros((), form.dtype))
        self._insert(index, "QuantizeLinear", [value, scale, zero], rounded)
        self._insert(index, "DequantizeLinear", [rounded, scale, zero], output)
        return output

    def _insert(
        self, index: int, op: str, inputs: list[str], output: str, **attributes: Any
    ) -> None:
        node = helper.make_node(op, inputs, [output], name=output, **attributes)
        self.before.setdefault(index, []).append(node)

    def _constant(self, name: str, value: np.ndarray | np.floating[Any]) -> str:
        if name not in self.constants:
            array = np.asarray(value)
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            raw = array.tobytes()
            self.constants[name] = helper.make_tensor(name, kind, array.shape, raw, raw=True)
        return name


def _declare(name: str, values: np.ndarray) -> TensorProto:
    """An initializer without its data."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    return TensorProto(name=name, data_type=kind, dims=values.shape)
