"""The oldest version of the standard operators that has all that a graph uses."""

from __future__ import annotations

import onnx
from onnx import AttributeProto, NodeProto, defs, shape_inference


def least_opset(model: onnx.ModelProto) -> int:
    """The first version in which every node's operator takes its attributes and input types.

    Nodes of other domains are left out. The answer is exact down to the version in which an
    operator's meaning last changed; the exporter's own operators begin at 18.
    """
    types = _types(model)
    nodes = [node for node in model.graph.node if node.domain in ("", "ai.onnx")]
    return max(_least(node, types) for node in nodes)


def _least(node: NodeProto, types: dict[str, str]) -> int:
    version = 1
    while not _is_in(node, types, version):
        version += 1
        assert version < 99, node
    return version


def _is_in(node: NodeProto, types: dict[str, str], version: int) -> bool:
    try:
        schema = defs.get_schema(node.op_type, version, "")
    except defs.SchemaError:
        return False
    required = {name for name, item in schema.attributes.items() if item.required}
    actual = {item.name for item in node.attribute if item.type != AttributeProto.UNDEFINED}
    if schema.deprecated or not required <= actual <= set(schema.attributes):
        return False
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return False
    formals = schema.inputs
    return all(
        name not in types or types[name] in formals[min(index, len(formals) - 1)].types
        for index, name in enumerate(node.input)
    )


def _types(model: onnx.ModelProto) -> dict[str, str]:
    """Value -> its type as schemas write it, such as tensor(float)."""
    graph = shape_inference.infer_shapes(model).graph
    kinds = {item.name: item.data_type for item in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kinds[value.name] = value.type.tensor_type.elem_type
    names = {item.number: item.name.lower() for item in onnx.TensorProto.DataType.DESCRIPTOR.values}
    return {name: f"tensor({names[kind]})" for name, kind in kinds.items() if kind}
