"""Flax's msgpack files as a container: one map whose arrays are extension values.

Source: flax/serialization.py. Extension 1 is an array, 3 a numpy scalar; the body of both is
again msgpack: (shape, type name, bytes in C order). Arrays over 1 GiB are cut into flat chunks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.checkpoints.containers.container import Leaf
from minit2i_deploy.errors import CheckpointError, require

_EXT_ARRAY: Final = 1
_EXT_SCALAR: Final = 3
_CHUNKED: Final = "__msgpack_chunked_array__"
_MAX_DEPTH: Final = 32
_MAX_NAME_BYTES: Final = 1024
_MAX_ENTRIES: Final = 100_000
# The library's own maximum.
_MAX_BUFFER_BYTES: Final = 2**31 - 1
_READ_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class _Stub:
    """What the first pass records of an array; ``index`` is its position in the file."""

    index: int
    leaf: Leaf
    scalar: int | None = None


@dataclass(slots=True)
class _Stored:
    leaf: Leaf
    parts: list[int] = field(default_factory=list)
    scalar: int | None = None


class MsgpackFile:
    """A container over a Flax msgpack file.

    The file is streamed twice: for names and shapes, then for the arrays to read. A training
    state is four times its weights, and only the weights are ever in memory.

    Raises:
        CheckpointError: the file is truncated, or flax did not write it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._msgpack = require("msgpack", "checkpoints")
        self._stored: dict[str, _Stored] = {}
        # Numbers the arrays as the second pass does; StopIteration beyond the limit is refused.
        count = iter(range(_MAX_ENTRIES))

        def stub(code: int, data: bytes) -> _Stub:
            shape, dtype, body = self._body(code, data)
            scalar = int(self._array(shape, dtype, body)) if self._is_step(shape, dtype) else None
            return _Stub(next(count), Leaf(shape, dtype), scalar)

        self._collect(self._unpack(stub), (), 0)

    @property
    def names(self) -> Sequence[str]:
        return list(self._stored)

    def leaf(self, name: str) -> Leaf:
        return self._stored[name].leaf

    def step(self) -> int | None:
        stored = self._stored.get("step")
        return None if stored is None else stored.scalar

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        indices = {part for name in names for part in self._stored[name].parts}
        arrays: dict[int, np.ndarray] = {}
        count = iter(range(_MAX_ENTRIES))

        def store_array(code: int, data: bytes) -> None:
            index = next(count)
            if index in indices:
                arrays[index] = self._array(*self._body(code, data))

        self._unpack(store_array)
        for name in names:
            stored = self._stored[name]
            parts = [arrays.pop(index) for index in stored.parts]
            array = parts[0] if len(parts) == 1 else np.concatenate([p.ravel() for p in parts])
            yield name, array.reshape(stored.leaf.shape)

    def _unpack(self, ext_hook: Callable[[int, bytes], object]) -> object:
        size = self._path.stat().st_size
        limit = max(1, min(size, _MAX_BUFFER_BYTES))
        try:
            with self._path.open("rb") as file:
                unpacker = self._msgpack.Unpacker(
                    file,
                    ext_hook=ext_hook,
                    object_pairs_hook=self._unique,
                    # By the file's size, so that a corrupt length cannot ask for more memory.
                    read_size=min(_READ_BYTES, limit),
                    max_buffer_size=limit,
                    max_str_len=_MAX_NAME_BYTES,
                    max_bin_len=_MAX_NAME_BYTES,
                    max_array_len=_MAX_ENTRIES,
                    max_map_len=_MAX_ENTRIES,
                    max_ext_len=limit,
                )
                value: object = unpacker.unpack()
                rest = size - unpacker.tell()
        except self._msgpack.OutOfData as error:
            raise CheckpointError(
                f"{self._path}: ends after {size} bytes in the middle of the data; "
                "download or copy it again"
            ) from error
        except (self._msgpack.UnpackException, ValueError, StopIteration) as error:
            raise self._foreign(f"{type(error).__name__}: {error}") from error
        if rest:
            raise self._foreign(f"{rest} bytes follow the data")
        return value

    def _unique(self, pairs: list[tuple[Any, object]]) -> dict[Any, object]:
        node = dict(pairs)
        if len(node) != len(pairs):
            raise self._foreign("a map with a duplicate key")
        return node

    def _body(self, code: int, data: bytes) -> tuple[tuple[int, ...], str, bytes]:
        if code not in (_EXT_ARRAY, _EXT_SCALAR):
            raise self._foreign(f"extension type {code}")
        body = self._msgpack.unpackb(data, max_str_len=_MAX_NAME_BYTES, max_array_len=64)
        try:
            shape, dtype, buffer = body
            plain = all(type(length) is int and length >= 0 for length in shape)
        except (TypeError, ValueError) as error:
            raise self._foreign("an array without shape, type and bytes") from error
        if not (plain and isinstance(dtype, str) and isinstance(buffer, bytes)):
            raise self._foreign("an array without shape, type and bytes")
        return tuple(shape), dtype, buffer

    def _array(self, shape: tuple[int, ...], dtype: str, buffer: bytes) -> np.ndarray:
        if dtype == "bfloat16":
            require("ml_dtypes", "checkpoints")
        try:
            return np.frombuffer(buffer, np.dtype(dtype)).reshape(shape)
        except (TypeError, ValueError) as error:
            raise self._foreign(f"{len(buffer)} bytes for a {dtype} array {shape}") from error

    @staticmethod
    def _is_step(shape: tuple[int, ...], dtype: str) -> bool:
        return shape == () and dtype in ("int32", "int64", "uint32")

    def _collect(self, node: object, path: tuple[str, ...], depth: int) -> None:
        """Flatten the outline; skip empty maps and plain values of the optimizer state."""
        if depth > _MAX_DEPTH:
            raise self._foreign(f"more than {_MAX_DEPTH} levels")
        if isinstance(node, dict):
            if _CHUNKED in node:
                self._store(path, self._chunked(node, "/".join(path)))
                return
            for key, child in node.items():
                self._collect(child, (*path, str(key)), depth + 1)
        elif isinstance(node, _Stub):
            self._store(path, _Stored(node.leaf, [node.index], node.scalar))
        elif path == ("step",) and isinstance(node, int):
            self._store(path, _Stored(Leaf((), "int64"), [], node))

    def _store(self, path: tuple[str, ...], stored: _Stored) -> None:
        name = "/".join(path)
        if not path or name in self._stored:
            raise self._foreign(f"an empty or duplicate name {name!r}")
        self._stored[name] = stored

    def _chunked(self, node: dict[Any, Any], name: str) -> _Stored:
        try:
            shape = tuple(int(node["shape"][str(i)]) for i in range(len(node["shape"])))
            chunks: list[_Stub] = [node["chunks"][str(i)] for i in range(len(node["chunks"]))]
            types = {chunk.leaf.dtype for chunk in chunks}
            num_values = sum(math.prod(chunk.leaf.shape) for chunk in chunks)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._foreign(f"{name} is a chunked array without shape and chunks") from error
        if len(types) != 1 or num_values != math.prod(shape):
            raise self._foreign(f"{name}: chunks hold {num_values} values for shape {shape}")
        return _Stored(Leaf(shape, types.pop()), [chunk.index for chunk in chunks])

    def _foreign(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}: not a checkpoint as flax writes it ({what[:200]}); "
            "give the file that the official code saved"
        )
