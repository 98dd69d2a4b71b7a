"""A quantized graph as the same arithmetic in float32, of operators that onnxruntime's CPU has.

It has no kernels for FP4, for E8M0 scales, and for TensorRT's dynamic quantization. Weights become
what their values stand for, and inputs are rounded by standard operators to the same values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from minit2i_deploy.export.quantize.graph.model_graph import Graph, widen
from minit2i_deploy.export.quantize.rounding.block_scales import scales_of_codes

_FP4_INPUTS: Final = "TRT_FP4DynamicQuantize"
_MX_INPUTS: Final = "TRT_MXFP8DynamicQuantize"
_MX_DEQUANTIZE: Final = "TRT_MXFP8DequantizeLinear"
_FP4_LARGEST, _FP8_LARGEST = 6.0, 448.0


def in_float32(graph: Graph) -> Graph:
    """The same values by float32 arithmetic; a graph that onnxruntime runs is only widened.

    Args:
        graph: as ``quantize_graph`` makes it, in any precision.
    """
    wide = widen(graph)
    if not any(_needs_rewrite(node, wide) for node in wide.model.graph.node):
        return wide
    rewrite = _Rewrite(wide)
    for node in wide.model.graph.node:
        rewrite.add(node)
    return rewrite.result()


def _needs_rewrite(node: NodeProto, graph: Graph) -> bool:
    values = graph.weights.get(node.input[0]) if node.input else None
    return node.domain == "trt" or (values is not None and values.dtype.name == "float4_e2m1fn")


class _Rewrite:
    """Nodes and weights of the float32 graph, as they are gathered.

    Args:
        graph: in float32 but for its quantized values.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._weights = dict(graph.weights)
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        # Value -> what it is dequantized to: of weights' scales, and of inputs' codes and scales.
        self._scales: dict[str, np.ndarray] = {}
        self._inputs: dict[str, tuple[NodeProto, str]] = {}

    def add(self, node: NodeProto) -> None:
        """Take over a node, or what stands for it."""
        if node.op_type in (_FP4_INPUTS, _MX_INPUTS):
            self._inputs[node.output[0]] = (node, "codes")
            self._inputs[node.output[1]] = (node, "scales")
        elif node.op_type in ("DequantizeLinear", _MX_DEQUANTIZE) and self._dequantize(node):
            return
        else:
            self._nodes.append(node)

    def result(self) -> Graph:
        """The graph."""
        model = onnx.ModelProto()
        model.CopyFrom(self._graph.model)
        del model.graph.node[:], model.graph.value_info[:], model.graph.initializer[:]
        model.graph.node.extend(self._nodes)
        for tensor in self._graph.model.graph.initializer:
            if tensor.name not in self._graph.weights:
                model.graph.initializer.append(tensor)
        for name, values in self._weights.items():
            kind = helper.np_dtype_to_tensor_dtype(values.dtype)
            model.graph.initializer.add(name=name, data_type=kind, dims=values.shape)
        model.graph.initializer.extend(self._constants.values())
        imports = [item for item in model.opset_import if item.domain != "trt"]
        del model.opset_import[:]
        model.opset_import.extend(imports)
        transposed = self._graph.transposed & self._weights.keys()
        return dataclasses.replace(
            self._graph, model=model, weights=self._weights, transposed=transposed, folder=None
        )

    def _dequantize(self, node: NodeProto) -> bool:
        """Whether a node dequantizes what onnxruntime does not; it is then replaced."""
        source, scale, output = node.input[0], node.input[1], node.output[0]
        if source in self._inputs:
            producer, part = self._inputs[source]
            if part == "codes":
                self._round_input(producer, output)
            return True
        values = self._weights.get(source)
        if values is None:
            return False
        if source.endswith(".scale"):
            self._scales[output] = values.astype(np.float32) * self._weights.pop(scale)
        elif node.op_type == _MX_DEQUANTIZE:
            self._expand(node, scales_of_codes(self._weights.pop(scale)))
        elif values.dtype.name == "float4_e2m1fn":
            self._expand(node, self._scales.pop(scale))
        else:
            return False
        del self._weights[source]
        return True

    def _expand(self, node: NodeProto, scales: np.ndarray) -> None:
        """Put a weight in the place of its dequantization."""
        factors = np.repeat(scales, _attributes(node)["block_size"], axis=0)
        self._weights[node.output[0]] = self._weights[node.input[0]].astype(np.float32) * factors

    def _round_input(self, node: NodeProto, output: str) -> None:
        """Round blocks of a value as TensorRT's operator does."""
        size = _attributes(node)["block_size"]
        value, shape, blocks, size_of, largest = (
            node.input[0],
            *(f"{output}.{part}" for part in ("shape", "blocks", "absolute", "largest")),
        )
        rows = self._constant(f"_blocks.{size}", np.array([-1, size], np.int64))
        axes = self._constant("_block_axis", np.array([-1], np.int64))
        self._node("Shape", [value], shape)
        self._node("Reshape", [value, rows], blocks)
        self._node("Abs", [blocks], size_of)
        self._node("ReduceMax", [size_of, axes], largest)
        if node.op_type == _FP4_INPUTS:
            scale = self._e4m3_scales(largest, node.input[1], output)
            rounded = self._round(blocks, scale, output, TensorProto.FLOAT4E2M1, _FP4_LARGEST)
        else:
            scale = self._e8m0_scales(largest, output)
            rounded = self._round(blocks, scale, output, TensorProto.FLOAT8E4M3FN, _FP8_LARGEST)
        self._node("Reshape", [rounded, shape], output)

    def _e4m3_scales(self, largest: str, tensor: str, label: str) -> str:
        """Of the tensor's scale: largest / (6 * tensor), rounded to E4M3, times tensor."""
        names = [f"{label}.{part}" for part in ("ratio", "limited", "codes", "wide", "scale")]
        ratio, limited, codes, wide, scale = names
        full = self._constant("_fp4_largest", np.float32(_FP4_LARGEST))
        limit = self._constant("_fp8_largest", np.float32(_FP8_LARGEST))
        reach = f"{label}.reach"
        self._node("Mul", [tensor, full], reach)
        self._node("Div", [largest, reach], ratio)
        self._node("Min", [ratio, limit], limited)
        self._node("Cast", [limited], codes, to=TensorProto.FLOAT8E4M3FN)
        self._node("Cast", [codes], wide, to=TensorProto.FLOAT)
        self._node("Mul", [wide, tensor], scale)
        return scale

    def _e8m0_scales(self, largest: str, label: str) -> str:
        """The least power of two that is not below largest / 448."""
        names = ("ratio", "log", "exponent", "ceiling", "power", "below", "double", "scale")
        ratio, log, exponent, ceiling, power, below, double, scale = (
            f"{label}.{part}" for part in names
        )
        limit = self._constant("_fp8_inverse", np.float32(1 / _FP8_LARGEST))
        least = self._constant("_least_ratio", np.float32(2.0**-126))
        log2 = self._constant("_log2", np.float32(1 / np.log(2)))
        two = self._constant("_two", np.float32(2))
        margin = self._constant("_log_margin", np.float32(1e-3))
        limited = f"{label}.limited"
        self._node("Mul", [largest, limit], ratio)
        self._node("Max", [ratio, least], limited)
        self._node("Log", [limited], log)
        self._node("Mul", [log, log2], exponent)
        # The logarithm is off by less than the margin: at worst the power is one too low.
        self._node("Sub", [exponent, margin], f"{label}.lowered")
        self._node("Ceil", [f"{label}.lowered"], ceiling)
        self._node("Pow", [two, ceiling], power)
        self._node("Less", [power, limited], below)
        self._node("Mul", [power, two], double)
        self._node("Where", [below, double, power], scale)
        return scale

    def _round(self, blocks: str, scale: str, label: str, kind: int, largest: float) -> str:
        """blocks / scale, saturated, rounded to a type, times scale; 0 where the scale is."""
        names = ("divisor", "quotient", "saturated", "narrow", "widened", "rounded")
        divisor, quotient, saturated, narrow, widened, rounded = (
            f"{label}.{part}" for part in names
        )
        tiny = self._constant("_tiny", np.float32(np.finfo(np.float32).tiny))
        high = self._constant(f"_high.{largest:g}", np.float32(largest))
        low = self._constant(f"_low.{largest:g}", np.float32(-largest))
        self._node("Max", [scale, tiny], divisor)
        self._node("Div", [blocks, divisor], quotient)
        self._node("Clip", [quotient, low, high], saturated)
        if kind == TensorProto.FLOAT4E2M1:
            self._round_to_fp4(saturated, widened)
        else:
            self._node("Cast", [saturated], narrow, to=kind)
            self._node("Cast", [narrow], widened, to=TensorProto.FLOAT)
        self._node("Mul", [widened, scale], rounded)
        return rounded

    def _round_to_fp4(self, value: str, output: str) -> None:
        """To 0, 0.5 ... 2 in steps of 0.5, to 4 in steps of 1, to 6: half to even, like E2M1."""
        size, from_two, from_four = (f"{output}.{part}" for part in ("size", "two", "four"))
        inverse, scaled, whole = (f"{output}.{part}" for part in ("inverse", "scaled", "whole"))
        two, four, half = (
            self._constant(f"_{name}", np.float32(number))
            for name, number in (("two", 2), ("four", 4), ("half", 0.5))
        )
        one = self._constant("_one", np.float32(1))
        self._node("Abs", [value], size)
        self._node("Less", [size, two], from_two)
        self._node("Less", [size, four], from_four)
        self._node("Where", [from_four, one, half], f"{output}.upper")
        self._node("Where", [from_two, two, f"{output}.upper"], inverse)
        self._node("Mul", [value, inverse], scaled)
        self._node("Round", [scaled], whole)
        self._node("Div", [whole, inverse], output)

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))

    def _constant(self, name: str, value: np.ndarray | np.floating[Any]) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _attributes(node: NodeProto) -> Mapping[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}
