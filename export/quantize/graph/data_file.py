"""The data file of a quantized graph: external data for ONNX and a safetensors file at once.

As export writes it, with three more types: I8, F8_E4M3, and U8, also with two 4-bit values a byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.export.quantize.formats import PACKED_DTYPES

_PAGE_BYTES: Final = 4096
_MAX_HEADER_BYTES: Final = 64 * 2**20
_NAMES: Final = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int8": "I8",
    "float8_e4m3fn": "F8_E4M3",
    "uint8": "U8",
    "int4": "U8",
    "float4_e2m1fn": "U8",
}


def read_transposed(path: Path) -> frozenset[str]:
    """The names that a safetensors header lists as transposed.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a safetensors file.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is not a safetensors file")
        fields: dict[str, dict[str, str]] = json.loads(file.read(size))
    return frozenset(json.loads(fields.get("__metadata__", {}).get("transposed", "[]")))


def write_data(
    path: Path, weights: Mapping[str, np.ndarray], transposed: Set[str]
) -> dict[str, tuple[int, int]]:
    """Write tensor by tensor.

    Args:
        path: of the file.
        weights: values by name, of the types in _NAMES.
        transposed: names to list as transposed.

    Returns:
        each name's offset and length in the file.
    """
    packed = {name: _bytes_shape(values) for name, values in weights.items()}
    # By falling alignment, so that each tensor is aligned and no gaps are needed.
    order = sorted(packed, key=lambda name: (-math.gcd(packed[name][0], _PAGE_BYTES), name))
    places, end = {}, 0
    for name in order:
        places[name] = (end, packed[name][0])
        end += packed[name][0]
    header = _header(weights, packed, places, order, transposed)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            file.write(pack(weights[name]))
    start = 8 + len(header)
    return {name: (start + offset, length) for name, (offset, length) in places.items()}


def pack(values: np.ndarray) -> bytes:
    """The bytes in the file: C order; of 4-bit values two a byte, the first one low."""
    if values.dtype.name not in PACKED_DTYPES:
        return np.ascontiguousarray(values).tobytes()
    nibbles = np.ascontiguousarray(values).reshape(-1).view(np.uint8) & 15
    padded = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
    return bytes(padded[0::2] | padded[1::2] << 4)


def unpack(data: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """The 4-bit values of uint8 data, of an even number of them, flat."""
    both = np.stack([data & 15, data >> 4], axis=1).reshape(-1)
    if dtype.name == "int4":
        both = both.astype(np.int8)
        return np.asarray(np.where(both > 7, both - 16, both).astype(dtype))
    values: np.ndarray = both.view(dtype)
    return values


def _bytes_shape(values: np.ndarray) -> tuple[int, list[int]]:
    """Bytes in the file, and the shape that the header has."""
    if values.dtype.name not in PACKED_DTYPES:
        return values.nbytes, list(values.shape)
    size = (values.size + 1) // 2
    return size, [size]


def _header(
    weights: Mapping[str, np.ndarray],
    packed: Mapping[str, tuple[int, list[int]]],
    places: Mapping[str, tuple[int, int]],
    order: list[str],
    transposed: Set[str],
) -> bytes:
    metadata = {"format": "pt", "transposed": json.dumps(sorted(transposed))}
    for dtype in PACKED_DTYPES:
        shapes = {n: list(weights[n].shape) for n in order if weights[n].dtype.name == dtype}
        if shapes:
            metadata[dtype] = json.dumps(shapes, sort_keys=True)
    fields: dict[str, object] = {"__metadata__": metadata}
    for name in order:
        offset, length = places[name]
        fields[name] = {
            "dtype": _NAMES[weights[name].dtype.name],
            "shape": packed[name][1],
            "data_offsets": [offset, offset + length],
        }
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return text + b" " * (-(8 + len(text)) % _PAGE_BYTES)
