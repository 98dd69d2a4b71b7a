"""The data file of a graph: external data for ONNX and a safetensors file at the same time.

Any tool can read the weights of a bundle by their canonical names, without onnx. A matrix that
the graph multiplies from the right is stored transposed, so that engines can map it into memory
unchanged; the list ``transposed`` of the file's metadata names it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir
import torch
from torch import Tensor, nn

from minit2i_deploy.bundle.names import DATA_SUFFIX
from minit2i_deploy.errors import VerificationError

GRAPH_FILE: Final = "model.onnx"
DATA_FILE: Final = f"{GRAPH_FILE}{DATA_SUFFIX}"
CONSTANT_PREFIX: Final = "_constant."

# Where the data begins, and the best alignment of a tensor: engines map whole pages.
_PAGE_BYTES: Final = 4096
# Constants that folding creates are smaller; a larger one would be a weight of unknown name.
_MAX_INLINE_BYTES: Final = 65536
_DTYPES: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """One tensor of the data file: its name in the file, its values in the graph's layout."""

    name: str
    values: Tensor
    transposed: bool

    @property
    def num_bytes(self) -> int:
        return self.values.numel() * self.values.element_size()


def write_graph(
    model: onnx_ir.Model,
    module: nn.Module,
    folder: Path,
    canonical: Callable[[str], str],
    data_file: str = DATA_FILE,
) -> None:
    """Write model.onnx and its data file, which contains every parameter of the module.

    Args:
        model: exported from the module; its initializers are renamed and moved to the file.
        module: owner of the parameters and of the constant tables.
        folder: created if it is missing.
        canonical: name of a module's parameter -> its name in the file.
        data_file: name of the data file.

    Raises:
        VerificationError: the graph has a large constant that is not one of the module's.
    """
    tensors = _tensors(module, canonical)
    transposed = _fold_transposes(model, tensors)
    _check_all_known(model, tensors)
    read = {tensors[name].name for name in model.graph.initializers if name in tensors}
    stored = _in_file_order(
        Stored(
            name=item.name,
            values=item.values.T if item.name in transposed else item.values,
            transposed=item.name in transposed,
        )
        for item in _distinct(tensors)
        if item.name in read or not item.name.startswith(CONSTANT_PREFIX)
    )
    folder.mkdir(parents=True, exist_ok=True)
    offsets = _write_safetensors(folder / data_file, stored)
    for name in [name for name in model.graph.initializers if name in tensors]:
        _point_at(model.graph.initializers[name], tensors[name].name, offsets, folder / data_file)
    onnx_ir.save(model, folder / GRAPH_FILE)


def _tensors(module: nn.Module, canonical: Callable[[str], str]) -> dict[str, Stored]:
    """Stored tensors by their names in the module; tied parameters share the first one's."""
    tensors: dict[str, Stored] = {}
    by_identity: dict[int, Stored] = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        fresh = Stored(name=canonical(name), values=value.detach(), transposed=False)
        tensors[name] = by_identity.setdefault(id(value), fresh)
    for name, table in module.named_buffers():
        label = CONSTANT_PREFIX + canonical(name)
        tensors[name] = Stored(name=label, values=table, transposed=False)
    return tensors


def _distinct(tensors: dict[str, Stored]) -> Iterator[Stored]:
    yield from {item.name: item for item in tensors.values()}.values()


def _fold_transposes(model: onnx_ir.Model, tensors: dict[str, Stored]) -> set[str]:
    """Remove the Transpose nodes of matrices that are read in no other way.

    Returns:
        names, as in the file, of the matrices whose transpose the graph now reads.
    """
    transposed = set()
    for name, value in list(model.graph.initializers.items()):
        readers = value.consumers()
        if name not in tensors or not readers or not all(map(_swaps_two_axes, readers)):
            continue
        assert value.shape is not None
        value.shape = onnx_ir.Shape(reversed(value.shape))
        for node in readers:
            node.outputs[0].replace_all_uses_with(value)
            model.graph.remove(node, safe=True)
        transposed.add(tensors[name].name)
    return transposed


def _swaps_two_axes(node: onnx_ir.Node) -> bool:
    permutation = node.attributes.get("perm")
    return (
        node.op_type == "Transpose"
        and permutation is not None
        and list(permutation.as_ints()) == [1, 0]
    )


def _check_all_known(model: onnx_ir.Model, tensors: dict[str, Stored]) -> None:
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        if name not in tensors and value.const_value.nbytes > _MAX_INLINE_BYTES:
            raise VerificationError(
                f"graph constant {name} of {value.const_value.nbytes} bytes is not a parameter of"
                " the network; install the versions of torch and onnxscript in constraints.txt"
            )


def _in_file_order(stored: Iterator[Stored]) -> list[Stored]:
    """By falling alignment, so that each tensor is aligned and no gaps are needed."""
    return sorted(stored, key=lambda item: -math.gcd(item.num_bytes, _PAGE_BYTES))


def _write_safetensors(path: Path, stored: list[Stored]) -> dict[str, tuple[int, int]]:
    """Write tensor by tensor; returns offset and length in the file by name."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for item in stored:
        places[item.name] = (end, item.num_bytes)
        end += item.num_bytes
    header = _header(stored, places)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for item in stored:
            flat = item.values.contiguous().reshape(-1).view(torch.uint8)
            file.write(flat.numpy().data)
    start = 8 + len(header)
    return {name: (start + offset, length) for name, (offset, length) in places.items()}


def _header(stored: list[Stored], places: dict[str, tuple[int, int]]) -> bytes:
    transposed = sorted(item.name for item in stored if item.transposed)
    fields: dict[str, object] = {
        "__metadata__": {"format": "pt", "transposed": json.dumps(transposed)}
    }
    for item in stored:
        offset, length = places[item.name]
        fields[item.name] = {
            "dtype": _DTYPES[item.values.dtype],
            "shape": list(item.values.shape),
            "data_offsets": [offset, offset + length],
        }
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    padding = -(8 + len(text)) % _PAGE_BYTES
    return text + b" " * padding


def _point_at(
    value: onnx_ir.Value, name: str, offsets: dict[str, tuple[int, int]], path: Path
) -> None:
    assert value.dtype is not None and value.shape is not None
    offset, length = offsets[name]
    value.const_value = onnx_ir.ExternalTensor(
        path.name,
        offset,
        length,
        value.dtype,
        shape=value.shape,
        name=name,
        base_dir=path.parent,
    )
    value.name = name
