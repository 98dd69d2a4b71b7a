"""safetensors files as a container: one file, or the shards of one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.checkpoints.containers.container import Leaf
from minit2i_deploy.errors import CheckpointError, require

_DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


class SafetensorsFiles:
    """A container over safetensors files whose names do not repeat.

    Raises:
        CheckpointError: a file is corrupt, or two of them hold the same name.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._safetensors = require("safetensors", "checkpoints")
        self._leaves: dict[str, tuple[Path, Leaf]] = {}
        for path in paths:
            with self._open(path) as file:
                for name in file.keys():
                    self._add(path, name, file.get_slice(name))

    @property
    def names(self) -> Sequence[str]:
        return list(self._leaves)

    def leaf(self, name: str) -> Leaf:
        return self._leaves[name][1]

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        if any(self.leaf(name).dtype == "bfloat16" for name in names):
            # numpy knows the type's name only once this package is imported.
            require("ml_dtypes", "checkpoints")
        for path in sorted({self._leaves[name][0] for name in names}):
            with self._open(path) as file:
                for name in names:
                    if self._leaves[name][0] == path:
                        yield name, file.get_tensor(name)

    def metadata(self, path: Path) -> dict[str, str]:
        """The texts in one file's header."""
        with self._open(path) as file:
            return dict(file.metadata() or {})

    def _add(self, path: Path, name: str, view: Any) -> None:
        if name in self._leaves:
            raise CheckpointError(
                f"{path}: tensor {name} is also in {self._leaves[name][0].name}; "
                "give the shards of one model only"
            )
        stored = view.get_dtype()
        leaf = Leaf(tuple(view.get_shape()), _DTYPES.get(stored, str(stored)))
        self._leaves[name] = (path, leaf)

    def _open(self, path: Path) -> Any:
        try:
            return self._safetensors.safe_open(str(path), framework="numpy")
        except (self._safetensors.SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path}: not a complete safetensors file ({error}); download or copy it again"
            ) from error
