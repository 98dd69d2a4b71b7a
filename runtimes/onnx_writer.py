"""Small ONNX models made without the onnx package, to test an engine with.

Source: onnx.proto of the ONNX project, for the field numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

# Old enough for every engine; the operators in use have not changed since.
_IR_VERSION, _OPSET = 8, 18
# TensorProto.DataType.
_DATA_TYPES: Final = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}
_INT_ATTRIBUTE: Final = 2


def model(
    nodes: Sequence[bytes],
    inputs: Sequence[bytes],
    outputs: Sequence[bytes],
    constants: Sequence[bytes] = (),
) -> bytes:
    """A model from what ``node``, ``value`` and ``constant`` give."""
    fields = [(1, nodes), (5, constants), (11, inputs), (12, outputs)]
    graph = b"".join(_message(field, item) for field, items in fields for item in items)
    graph += _text(2, "test")
    return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, _number(2, _OPSET))


def node(operator: str, inputs: Sequence[str], output: str, **attributes: int) -> bytes:
    """A node with one output; an input "" is left open, and attributes are integers."""
    encoded = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, operator)
    for name, number in attributes.items():
        kind = _number(20, _INT_ATTRIBUTE)
        encoded += _message(5, _text(1, name) + _number(3, number) + kind)
    return encoded


def value(name: str, shape: Sequence[int], dtype: str = "float32") -> bytes:
    """An input or output of a fixed shape."""
    dims = b"".join(_message(1, _number(1, size)) for size in shape)
    tensor = _number(1, _DATA_TYPES[dtype]) + _message(2, dims)
    return _text(1, name) + _message(2, _message(1, tensor))


def constant(name: str, array: np.ndarray) -> bytes:
    """An array that is part of the model, as weights are."""
    sizes = b"".join(_number(1, size) for size in array.shape)
    kind = _number(2, _DATA_TYPES[str(array.dtype)])
    raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return sizes + kind + _text(8, name) + _message(9, raw)


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
