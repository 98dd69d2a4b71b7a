"""Write parts to one .npz or .npy file, text by text, so memory does not grow with the texts."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np

from minit2i_deploy.errors import UsageError, require
from minit2i_deploy.io.files import atomic_file
from minit2i_deploy.text.embedding_parquet import write_parquet
from minit2i_deploy.text.embedding_parts import Part

SUFFIXES: Final = (".npz", ".npy", ".parquet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """The arrays in a file of embeddings.

    Args:
        tokens: the texts' tokens and their mask.
        pooled: one vector a text, of length 1.
        lines: the number of each text's line in its file.

    Raises:
        UsageError: neither tokens nor pooled.
    """

    tokens: bool = True
    pooled: bool = False
    lines: bool = False

    def __post_init__(self) -> None:
        if not (self.tokens or self.pooled):
            raise UsageError("nothing to write; choose tokens, pooled vectors or both")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Of all parts together: number of texts, tokens of the longest, width of a token."""

    num_texts: int
    longest: int
    width: int


def check_suffix(path: Path) -> None:
    """Refuse a file format that is not supported, or whose library is missing.

    Raises:
        UsageError: another suffix.
        MissingDependencyError: parquet without pyarrow.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if path.suffix.lower() == ".parquet":
        require("pyarrow.parquet", "parquet")


def write_parts(
    path: Path, parts: Callable[[], Iterator[Part]], sizes: Sizes, contents: Contents
) -> dict[str, list[int]]:
    """Write all parts as one file, complete or not at all.

    A .npy file has one array: values, or pooled without tokens. The others are written beside it
    as NAME.mask.npy, NAME.pooled.npy and NAME.line.npy.

    Args:
        path: output; its suffix is the format.
        parts: iterates over the parts from the first on, at every call.
        sizes: of all parts together.
        contents: the arrays to write.

    Returns:
        names and shapes of the arrays.

    Raises:
        UsageError: the folder is not writable.
        Minit2iError: the disk failed or is full.
        MissingDependencyError: parquet without pyarrow.
    """
    shapes = _shapes(sizes, contents)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        with atomic_file(path) as partial:
            write_parquet(partial, parts(), sizes.width, contents.tokens, contents.pooled)
    elif suffix == ".npz":
        with atomic_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
            for name, shape in shapes.items():
                # Its size is not known yet, and may exceed 4 GiB.
                with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    _write_array(cast(BinaryIO, stream), name, shape, parts())
    else:
        # The named file is written last, so that it exists only when all others do.
        for name in reversed(shapes):
            with atomic_file(npy_path(path, name, shapes)) as partial:
                with open(partial, "wb") as stream:
                    _write_array(stream, name, shapes[name], parts())
    return {name: list(shape) for name, shape in shapes.items()}


def npy_path(path: Path, name: str, shapes: dict[str, tuple[int, ...]]) -> Path:
    """The .npy file of an array: the named file for the first one, one beside it for the others."""
    return path if name == next(iter(shapes)) else path.with_suffix(f".{name}{path.suffix}")


def _shapes(sizes: Sizes, contents: Contents) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    if contents.tokens:
        shapes["values"] = (sizes.num_texts, sizes.longest, sizes.width)
        shapes["mask"] = shapes["values"][:2]
    if contents.pooled:
        shapes["pooled"] = (sizes.num_texts, sizes.width)
    if contents.lines:
        shapes["line"] = (sizes.num_texts,)
    return shapes


def _write_array(
    stream: BinaryIO, name: str, shape: tuple[int, ...], parts: Iterator[Part]
) -> None:
    # Byte by byte the same on every machine.
    dtype = np.dtype("<i8" if name in ("mask", "line") else "<f4")
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for part in parts:
        for chunk in _chunks(name, shape, part):
            stream.write(np.ascontiguousarray(chunk, dtype=dtype).data)


def _chunks(name: str, shape: tuple[int, ...], part: Part) -> Iterator[np.ndarray]:
    if name == "values":
        for sequence in part.sequences():
            yield sequence
            yield np.zeros((shape[1] - len(sequence), shape[2]), np.float32)
    elif name == "mask":
        yield np.arange(shape[1])[None] < part.lengths[:, None]
    elif name == "pooled":
        assert part.pooled is not None
        yield part.pooled
    else:
        yield part.lines
