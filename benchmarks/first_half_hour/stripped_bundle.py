"""A bundle without its weights, small enough to carry, and weights made again from a seed."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.names import DATA_SUFFIX, HUB_DATA_SUFFIX

_SPEC_SUFFIX: Final = ".json"
# Ours, and the text encoder's as hubs name it.
_DATA_FILES: Final = tuple(f"*.onnx{suffix}" for suffix in (DATA_SUFFIX, HUB_DATA_SUFFIX))
# Constants, and tensors of a few numbers whose values matter more than their bytes.
_CONSTANT: Final = "_constant."
_SMALL_BYTES: Final = 4096
_TYPES: Final = {"F32": np.float32, "F16": np.float16}


def strip(bundle: Path, target: Path) -> None:
    """Copy a bundle without the data files of its graphs; of these, headers and constants stay.

    Args:
        bundle: its folder; data files are safetensors files.
        target: new folder.
    """
    shutil.copytree(bundle, target, ignore=shutil.ignore_patterns(*_DATA_FILES, "engines"))
    for data in data_files(bundle):
        spec = target / data.relative_to(bundle)
        spec.with_name(spec.name + _SPEC_SUFFIX).write_text(json.dumps(_describe(data)))


def fill(folder: Path, seed: int = 0) -> int:
    """Write the data files of a stripped bundle; where they are already there, nothing is done.

    Weights are random, and keep the size of values through the network as
    ``random_release.write_release`` does.

    Returns:
        bytes written.
    """
    written = 0
    for spec_path in data_files(folder, _SPEC_SUFFIX):
        spec = json.loads(spec_path.read_text())
        data = spec_path.with_name(spec_path.name.removesuffix(_SPEC_SUFFIX))
        if not data.exists():
            _write(data, spec, seed)
            written += data.stat().st_size
    return written


def data_files(folder: Path, suffix: str = "") -> list[Path]:
    """Data files of a bundle's graphs, or with a suffix what stands for them."""
    return sorted(path for name in _DATA_FILES for path in folder.rglob(name + suffix))


def _describe(data: Path) -> dict[str, Any]:
    with data.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        base, retained = file.tell(), {}
        for name, tensor in _tensors(header).items():
            begin, end = tensor["data_offsets"]
            if name.startswith(_CONSTANT) or end - begin <= _SMALL_BYTES:
                file.seek(base + begin)
                retained[name] = file.read(end - begin).hex()
    size = data.stat().st_size
    return {"header": header.decode("utf-8"), "bytes": size, "retained": retained}


def _write(data: Path, spec: Mapping[str, Any], seed: int) -> None:
    header = spec["header"].encode("utf-8")
    transposed = json.loads(json.loads(header)["__metadata__"].get("transposed", "[]"))
    partial = data.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        base = file.tell()
        file.truncate(spec["bytes"])
        for name, tensor in _tensors(header).items():
            file.seek(base + tensor["data_offsets"][0])
            if name in spec["retained"]:
                file.write(bytes.fromhex(spec["retained"][name]))
            else:
                values = _random(name, tensor["shape"], name in transposed, seed)
                file.write(_encode(values, tensor["dtype"]))
    partial.replace(data)


def _tensors(header: bytes) -> dict[str, Any]:
    tensors: dict[str, Any] = json.loads(header)
    tensors.pop("__metadata__", None)
    return tensors


def _random(name: str, shape: list[int], transposed: bool, seed: int) -> np.ndarray:
    """Each tensor has a stream of its own, so that none depends on the order of the file."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape, dtype=np.float32)
    if "norm" in name:
        return 1 + np.float32(0.1) * values
    if len(shape) < 2:
        return np.float32(0.1) * values
    inputs = shape[0] if transposed else int(np.prod(shape[1:]))
    return values / np.float32(np.sqrt(inputs))


def _encode(values: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.astype(_TYPES[dtype]).tobytes()
