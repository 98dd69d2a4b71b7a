"""Quantize the linear layers of a graph with standard ONNX operators.

An input is rounded by QuantizeLinear and DequantizeLinear, a weight is stored quantized and read
by DequantizeLinear. With one scale per input the pair stands after the value, once however many
layers read it. With a range per token the value is divided by each token's largest magnitude
first, so that the pair's scale is a constant, and the product is multiplied by it afterwards.
With a range per block, TensorRT's operators take the ranges when the graph runs: ONNX has none.
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
from minit2i_deploy.export.quantize.formats import FP4, INT8, Format
from minit2i_deploy.export.quantize.graph.linear_layers import Linear
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.rounding.block_scales import E4M3, e4m3_codes, e8m0_codes
from minit2i_deploy.export.quantize.rounding.low_rank import Branch
from minit2i_deploy.export.quantize.rounding.matrix import QuantizedWeight, quantize_matrix
from minit2i_deploy.export.quantize.schemes import LEAST_RANGE, GraphScheme

# Blocks and float16 scales came to Q/DQ with this opset and its IR; QuantizeLinear to FP8 with 19.
_FULL_OPSET: Final = 21
_FULL_IR: Final = 10
# FLOAT4E2M1 came with these.
_FP4_OPSET: Final = 23
_FP4_IR: Final = 11
# Of TensorRT's own operators, in its parsers and in onnxruntime's providers.
TRT_DOMAIN: Final = "trt"


def quantize_graph(
    step: QuantizableGraph,
    scheme: GraphScheme,
    scales: Mapping[str, float],
    *,
    exclude: Collection[str] = (),
    weights: Mapping[str, QuantizedWeight] | None = None,
    branches: Mapping[str, Branch] | None = None,
) -> Graph:
    """A graph with its linear layers quantized.

    Args:
        step: not changed.
        scheme: formats, for example ``find_scheme("int8").transformer``. Its ``exclude`` is not
            applied here; ``match_any`` turns it into names.
        scales: scale of every input, by ``Linear.site``, and with attention by the names of
            ``QuantizableGraph.attention``; empty for schemes that need none.
        exclude: names of layers that are not quantized.
        weights: quantized matrices by layer, where they are not simply the nearest values.
        branches: by layer, what is added to its product in the source's precision.

    Returns:
        the graph, whose weights are of the scheme's format, each beside ``<name>.scale`` (one per
        output channel, or per block and output channel), and ``<site>.input.scale`` for inputs.
        Beside scales in E4M3 stands the tensor's, ``<name>.tensor_scale``.

    Raises:
        UsageError: a scale is missing, or the scheme quantizes attention and the graph has no
            Attention node.
    """
    check_graph(step, scheme)
    model = onnx.ModelProto()
    model.CopyFrom(step.graph.model)
    source = step.graph.weights
    edit = _Edit(
        scheme=scheme,
        scales=scales,
        source=source,
        weights=dict(source),
        model=model,
        matrices=weights or {},
        branches=branches or {},
    )
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
    is_fp4 = scheme.weights is FP4
    for item in model.opset_import:
        if item.domain in ("", "ai.onnx"):
            item.version = max(item.version, _FP4_OPSET if is_fp4 else _FULL_OPSET)
    model.ir_version = max(model.ir_version, _FP4_IR if is_fp4 else _FULL_IR)
    if any(node.domain == TRT_DOMAIN for node in model.graph.node):
        model.opset_import.append(helper.make_opsetid(TRT_DOMAIN, 1))


@dataclass(kw_only=True)
class _Edit:
    """A model that is being rewritten.

    Args:
        scheme: of the graph.
        scales: by site.
        source: weights of the graph that is quantized.
        weights: of the model; quantized ones replace the source's.
        model: its nodes are changed in place, new ones are inserted by ``apply``.
        matrices: quantized ones by layer; those of other layers are rounded here.
        branches: by layer.
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
    matrices: Mapping[str, QuantizedWeight]
    branches: Mapping[str, Branch]
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
        elif scheme.takes_block_ranges:
            node.input[0] = self._round_blocks(layer, scheme, base)
        elif scheme.activations is not None:
            label = layer.site + ".input"
            node.input[0] = self._round(layer.source, label, layer.site, layer.node, base)
        elif scheme.padding(layer.num_inputs):
            node.input[0] = self._pad(layer, layer.source, scheme.padding(layer.num_inputs))
        node.input[1] = self._store_weight(layer, scheme, base)
        if layer.name in self.branches:
            self._add_branch(layer, node, self.branches[layer.name], base)

    def quantize_attention(self, step: QuantizableGraph) -> None:
        assert self.scheme.activations is self.scheme.attention
        base = step.graph.weights[step.linears[0].weight].dtype
        for site in step.attention_inputs(scores_only=self.scheme.scores_only):
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
        matrix = self.matrices.get(layer.name)
        if matrix is None:
            values = np.asarray(self.source[layer.weight], dtype=np.float32)
            matrix = quantize_matrix(values, scheme)
        scale, block = layer.weight + ".scale", matrix.block
        self.weights[layer.weight] = matrix.values
        axis: dict[str, Any] = {"axis": 0, "block_size": block} if block else {"axis": 1}
        if matrix.tensor is not None:
            tensor = layer.weight + ".tensor_scale"
            self.weights[tensor] = np.array(matrix.tensor, dtype=base)
            self.weights[scale] = e4m3_codes(matrix.scale, matrix.tensor)
            self._insert(layer.node, "DequantizeLinear", [scale, tensor], scale + ".dequantized")
            scale += ".dequantized"
        elif scheme.scale_format:
            self.weights[scale] = e8m0_codes(matrix.scale)
            self._dequantize_mx(layer.node, [layer.weight, scale], output, base, axis)
            return output
        else:
            self.weights[scale] = matrix.scale.astype(base)
        self._insert(layer.node, "DequantizeLinear", [layer.weight, scale], output, **axis)
        return output

    def _add_branch(
        self, layer: Linear, node: NodeProto, branch: Branch, base: np.dtype[Any]
    ) -> None:
        """Add x times two narrow matrices to the product, as it was before the inputs' rounding."""
        down, up = (f"{layer.name}.low_rank.{part}" for part in ("down", "up"))
        self.weights[down], self.weights[up] = branch.down.astype(base), branch.up.astype(base)
        reduced, added, product = (
            f"{layer.label}.low_rank.{part}" for part in ("reduced", "added", "product")
        )
        last = self.after[layer.node][-1] if layer.node in self.after else node
        last.output[0] = product
        if last is not node:
            last.name = product
        self.after.setdefault(layer.node, []).extend(
            [
                helper.make_node("MatMul", [layer.source, down], [reduced], name=reduced),
                helper.make_node("MatMul", [reduced, up], [added], name=added),
                helper.make_node("Add", [product, added], [layer.output], name=layer.output),
            ]
        )

    def _pad(self, layer: Linear, value: str, count: int) -> str:
        """Channels of zeros behind a layer's input."""
        output = layer.site + ".input.padded"
        if self.rounded.get(value) != output:
            pads = self._constant(f"_pads.{count}", np.array([0, count], np.int64))
            axes = self._constant("_last_axis", np.array([-1], np.int64))
            self._insert(layer.node, "Pad", [value, pads, "", axes], output)
            self.rounded[value] = output
        return output

    def _round_blocks(self, layer: Linear, scheme: GraphScheme, base: np.dtype[Any]) -> str:
        """Round an input with ranges that TensorRT takes from each block; shared by all readers."""
        value, label = layer.source, layer.site + ".input"
        if value in self.rounded:
            return self.rounded[value]
        source = value
        if padding := scheme.padding(layer.num_inputs):
            source = self._pad(layer, value, padding)
        output, codes, ranges = (
            f"{label}.{part}" for part in ("dequantized", "quantized", "block_scale")
        )
        axis = {"axis": -1, "block_size": scheme.block}
        if scheme.scale_format == E4M3:
            scale = self._input_scale(label, layer.site, base)
            types = {"scale_type": TensorProto.FLOAT8E4M3FN}
            self._insert_trt(
                layer.node, "TRT_FP4DynamicQuantize", [source, scale], [codes, ranges], axis | types
            )
            wide = ranges + ".dequantized"
            self._insert(layer.node, "DequantizeLinear", [ranges, scale], wide)
            self._insert(layer.node, "DequantizeLinear", [codes, wide], output, **axis)
        else:
            types = {"output_dtype": TensorProto.FLOAT8E4M3FN}
            self._insert_trt(
                layer.node, "TRT_MXFP8DynamicQuantize", [source], [codes, ranges], axis | types
            )
            self._dequantize_mx(layer.node, [codes, ranges], output, base, axis)
        self.rounded[value] = output
        return output

    def _dequantize_mx(
        self,
        index: int,
        inputs: list[str],
        output: str,
        base: np.dtype[Any],
        axis: Mapping[str, int],
    ) -> None:
        types = {"output_dtype": helper.np_dtype_to_tensor_dtype(base)}
        self._insert_trt(index, "TRT_MXFP8DequantizeLinear", inputs, [output], {**axis, **types})

    def _insert_trt(
        self,
        index: int,
        op: str,
        inputs: list[str],
        outputs: list[str],
        attributes: Mapping[str, int],
    ) -> None:
        named: dict[str, Any] = {"name": outputs[0], "domain": TRT_DOMAIN, **attributes}
        node = helper.make_node(op, inputs, outputs, **named)
        self.before.setdefault(index, []).append(node)

    def _input_scale(self, label: str, site: str, base: np.dtype[Any]) -> str:
        """Store an input's scale from calibration; returns its name."""
        if site not in self.scales:
            raise UsageError(f"no scale for {site}; calibrate this graph")
        scale = label + ".scale"
        self.weights[scale] = np.array(self.scales[site], dtype=base)
        return scale

    def _round(self, value: str, label: str, site: str, index: int, base: np.dtype[Any]) -> str:
        """A Q/DQ pair before a node, shared by all readers; returns the name of its output."""
        if value in self.rounded:
            return self.rounded[value]
        scale = self._input_scale(label, site, base)
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
