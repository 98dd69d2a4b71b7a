"""Replace the weights of a bundle: the same files but for the data files of its graphs.

The data file beside a graph is a safetensors file whose header has names, types and offsets, so
new weights of the same shapes are written over the old ones and no graph changes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.head_padding import HeadPadding
from minit2i_deploy.bundle.manifest import Check, Provenance
from minit2i_deploy.bundle.names import REFERENCE_OUTPUTS
from minit2i_deploy.errors import BundleError, UsageError

GRAPHS: Final = ("text_adapter", "transformer")
_PLAIN: Final = ("fp32", "fp16", "bf16")
CONSTANT_PREFIX: Final = "_constant."
# safetensors' own limit is 10^8; the first eight bytes of a foreign file may say anything.
_MAX_HEADER_BYTES: Final = 2**26
_ITEM_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One weight in a data file.

    Args:
        dtype: F32, F16 or BF16.
        shape: in the file.
        begin: offset of its first byte in the file.
        end: offset after its last byte.
        transposed: whether the file has the transpose of the network's matrix.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    transposed: bool


def stored_tensors(data_file: Path) -> dict[str, StoredTensor]:
    """The weights in a data file by their canonical names; constant tables are excluded.

    Raises:
        BundleError: the file is missing or not of this form.
    """
    try:
        with data_file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _MAX_HEADER_BYTES:
                raise ValueError("header too large")
            header: dict[str, Any] = json.loads(stream.read(length))
        transposed = set(json.loads(header.pop("__metadata__", {}).get("transposed", "[]")))
        return {
            name: _stored(8 + length, entry, name in transposed)
            for name, entry in header.items()
            if not name.startswith(CONSTANT_PREFIX)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{data_file}: not a weights file ({error})") from error


def read_tensor(data_file: Path, stored: StoredTensor) -> np.ndarray:
    """The raw bytes of one weight: uint8 [bytes], a view of the file."""
    # Mapped, because the file may be larger than memory.
    raw: np.ndarray = np.memmap(data_file, np.uint8, "r")[stored.begin : stored.end]
    return raw


def read_weights(data_file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The weights of a safetensors file, without the package of that name.

    Yields:
        canonical name, and float32 values in the network's layout.

    Raises:
        BundleError: the file is missing or not of this form.
    """
    for name, stored in stored_tensors(data_file).items():
        values = _widened(read_tensor(data_file, stored), stored)
        yield name, np.array(values.T if stored.transposed else values, order="C")


def network_tensors(bundle: Bundle) -> dict[str, np.ndarray]:
    """All weights of the network: float32, in the network's layout, as a checkpoint has them.

    Raises:
        BundleError: a data file is corrupt.
    """
    tensors = {}
    padding = bundle.manifest.head_padding
    for graph in GRAPHS:
        path = bundle.data_path(graph)
        for name, weight in read_weights(path):
            tensors[name] = _unpadded(padding, name, weight, path)
    return tensors


def check_refittable(bundle: Bundle) -> None:
    """Refuse a bundle whose weights are not those of one network in full precision.

    Raises:
        UsageError: it is quantized, or has a second step graph.
    """
    if bundle.manifest.switch is not None:
        raise UsageError(
            f"{bundle.path}: has two step graphs, whose weights cannot be replaced; export the new "
            "weights and quantize that bundle"
        )
    precisions = {graph: bundle.manifest.graphs[graph].precision for graph in GRAPHS}
    quantized = {graph: word for graph, word in precisions.items() if word not in _PLAIN}
    quantization = bundle.manifest.quantization
    if quantization is not None or quantized:
        graph, word = next(iter(quantized.items()), ("", ""))
        reason = f"{graph} is {word}" if quantization is None else quantization.scheme
        raise UsageError(
            f"{bundle.path}: is quantized ({reason}), so its weights cannot be replaced; refit or "
            "export its source bundle, and quantize that"
        )


def write_with_weights(
    bundle: Bundle,
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    provenance: Provenance,
    text_encoder: Mapping[str, np.ndarray] | None = None,
) -> Bundle:
    """Write a bundle with the same graphs and other weights into an empty folder.

    Args:
        bundle: source of everything else.
        folder: output; the caller makes it atomic.
        tensors: float32 under canonical names, each weight of the bundle once.
        provenance: of the new weights.
        text_encoder: the text encoder's weights, float32 under the names of its data file; None
            leaves them as they are.

    Returns:
        the new bundle, without checks in its manifest: the source's were measured on its weights.

    Raises:
        UsageError: missing or unknown weights, another shape, or a quantized bundle.
        BundleError: a data file is corrupt.
    """
    check_refittable(bundle)
    manifest = bundle.manifest
    data = {graph: manifest.data_file(manifest.graphs[graph]) for graph in GRAPHS}
    _check_complete(bundle, data, tensors)
    # Only listed files: the engine cache is of the old weights, and so are reference outputs.
    for name in manifest.files.keys() - {REFERENCE_OUTPUTS}:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, target)
    for name in data.values():
        _overwrite(folder / name, tensors, manifest.head_padding)
    if text_encoder is not None:
        name = manifest.data_file(manifest.graphs["text_encoder"])
        _overwrite(folder / name, text_encoder, None)
    return write_checks(bundle, folder, (), provenance)


def write_checks(
    bundle: Bundle, folder: Path, checks: tuple[Check, ...], provenance: Provenance
) -> Bundle:
    """Write the manifest of a bundle with replaced weights, with its measured checks."""
    manifest = dataclasses.replace(bundle.manifest, checks=checks, provenance=provenance)
    write_manifest(folder, manifest)
    return Bundle.open(folder)


def _stored(offset: int, entry: Mapping[str, Any], transposed: bool) -> StoredTensor:
    begin, end = (offset + place for place in entry["data_offsets"])
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    if dtype not in _ITEM_BYTES or end - begin != int(np.prod(shape)) * _ITEM_BYTES[dtype]:
        raise ValueError(f"{dtype} {list(shape)} in {end - begin} bytes")
    return StoredTensor(dtype=dtype, shape=shape, begin=begin, end=end, transposed=transposed)


def _unpadded(padding: HeadPadding | None, name: str, weight: np.ndarray, path: Path) -> np.ndarray:
    if padding is None:
        return weight
    try:
        return padding.unpad(name, weight)
    except ValueError as error:
        raise BundleError(
            f"{path}: {name} has shape {list(weight.shape)}, expected heads of {padding.padded}"
        ) from error


def _check_complete(
    bundle: Bundle, data: Mapping[str, str], tensors: Mapping[str, np.ndarray]
) -> None:
    expected = {
        name: stored.shape[::-1] if stored.transposed else stored.shape
        for path in data.values()
        for name, stored in stored_tensors(bundle.path / path).items()
    }
    if (padding := bundle.manifest.head_padding) is not None:
        expected = {name: padding.unpadded_shape(name, shape) for name, shape in expected.items()}
    actual = {name: array.shape for name, array in tensors.items()}
    wrong = sorted(name for name in expected | actual if expected.get(name) != actual.get(name))
    if wrong:
        shapes = [list(shapes.get(wrong[0], ())) or "none" for shapes in (expected, actual)]
        raise UsageError(
            f"{bundle.path}: {len(wrong)} weights do not fit, first {wrong[0]}: expected shape "
            f"{shapes[0]}, got {shapes[1]}; give weights of the same architecture"
        )


def _overwrite(path: Path, tensors: Mapping[str, np.ndarray], padding: HeadPadding | None) -> None:
    with path.open("r+b") as stream:
        for name, stored in stored_tensors(path).items():
            values = tensors[name] if padding is None else padding.pad(name, tensors[name])
            values = values.T if stored.transposed else values
            stream.seek(stored.begin)
            stream.write(_narrowed(values, stored.dtype))


def _narrowed(values: np.ndarray, dtype: str) -> bytes:
    """Bytes in the file's type, rounded to nearest, ties to even."""
    array = np.ascontiguousarray(values, np.float32)
    if dtype == "F32":
        return array.tobytes()
    if dtype == "F16":
        return array.astype(np.float16).tobytes()
    bits = array.view(np.uint32)
    # Adding half of the last remaining bit, and one more where that bit is set, carries exactly
    # where rounding to nearest, ties to even, rounds up.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def _widened(raw: np.ndarray, stored: StoredTensor) -> np.ndarray:
    if stored.dtype == "BF16":
        bits = raw.view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).reshape(stored.shape)
    dtype = {"F32": np.float32, "F16": np.float16}[stored.dtype]
    return raw.view(dtype).astype(np.float32).reshape(stored.shape)


def names_in_graph(graph_file: Path, names: Iterable[str]) -> set[str]:
    """The names that are initializers of an ONNX graph, read without the onnx package.

    A data file also has weights that reach no output and so are in no graph: those of the last
    block's text stream.

    Source: onnx.proto of the ONNX project: TensorProto.name is field 8, a string.
    """
    graph = graph_file.read_bytes()
    return {name for name in names if _name_field(name) in graph}


def _name_field(name: str) -> bytes:
    text, length = name.encode("ascii"), bytearray()
    rest = len(text)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([8 << 3 | 2, *length, rest]) + text


def changed_names(before: Bundle, after: Bundle, graph: str) -> Iterator[str]:
    """Names of the weights in one graph whose bytes differ between two bundles."""
    old, new = (bundle.data_path(graph) for bundle in (before, after))
    places = stored_tensors(new)
    used = names_in_graph(before.graph_path(graph), places)
    for name, stored in stored_tensors(old).items():
        if name in used and not np.array_equal(
            read_tensor(old, stored), read_tensor(new, places[name])
        ):
            yield name
