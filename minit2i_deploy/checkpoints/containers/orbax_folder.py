"""Orbax folders as a container: a tree description beside zarr arrays in one OCDBT store.

Array names in the store are the tree's keys joined with dots. Keys may hold dots themselves (an
EMA decay does), so only ``_METADATA`` says where one ends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minit2i_deploy.checkpoints.containers.container import Leaf
from minit2i_deploy.errors import CheckpointError, require


class OrbaxFolder:
    """A container over an Orbax folder; an array is opened when it is read.

    Raises:
        CheckpointError: the folder is incomplete or of an unknown kind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        metadata = self._metadata()
        if not metadata.get("use_ocdbt") or not (path / "manifest.ocdbt").is_file():
            raise CheckpointError(
                f"{path}: an Orbax folder without its OCDBT store (manifest.ocdbt); copy the "
                "complete folder, or save it again with Orbax's default settings"
            )
        self._driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
        # A writer that skips chunks equal to the fill value means zeros by a missing one.
        self._sparse = not metadata.get("store_array_data_equal_to_fill_value", False)
        self._tensorstore = require("tensorstore", "checkpoints")
        self._keys = self._tree_keys(metadata)
        self._opened: dict[str, Any] = {}

    @property
    def names(self) -> Sequence[str]:
        return list(self._keys)

    def leaf(self, name: str) -> Leaf:
        store = self._open(name)
        return Leaf(tuple(store.shape), store.dtype.name)

    def step(self) -> int | None:
        if "step" not in self._keys:
            return None
        return int(self._value("step"))

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        for name in names:
            yield name, self._value(name)

    def _metadata(self) -> dict[str, Any]:
        file = self._path / "_METADATA"
        try:
            metadata = json.loads(file.read_bytes())
            if isinstance(metadata["tree_metadata"], dict):
                return dict(metadata)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"{file}: not Orbax's tree description ({type(error).__name__}: {error}); "
                "copy the folder again"
            ) from error
        raise CheckpointError(f"{file}: tree_metadata is not an object; copy the folder again")

    def _tree_keys(self, metadata: dict[str, Any]) -> dict[str, str]:
        keys: dict[str, str] = {}
        try:
            for entry in metadata["tree_metadata"].values():
                if entry["value_metadata"]["value_type"] == "None":
                    continue  # an empty node of the optimizer state
                parts = [str(part["key"]) for part in entry["key_metadata"]]
                name = "/".join(parts)
                if name in keys:
                    raise KeyError(f"duplicate {name}")
                keys[name] = ".".join(parts)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self._path / '_METADATA'}: an entry without its key parts ({error}); "
                "copy the folder again"
            ) from error
        return keys

    def _open(self, name: str) -> Any:
        if name not in self._opened:
            spec: dict[str, Any] = {
                "driver": self._driver,
                "kvstore": {
                    "driver": "ocdbt",
                    "base": {"driver": "file", "path": f"{self._path}/"},
                    "path": f"{self._keys[name]}/",
                },
                "fill_missing_data_reads": self._sparse,
            }
            try:
                self._opened[name] = self._tensorstore.open(spec, open=True, read=True).result()
            except (ValueError, RuntimeError, OSError, KeyError) as error:
                raise self._read_error(name, error) from error
        return self._opened[name]

    def _value(self, name: str) -> np.ndarray:
        try:
            return np.asarray(self._open(name).read().result())
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise self._read_error(name, error) from error

    def _read_error(self, name: str, error: Exception) -> CheckpointError:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        return CheckpointError(
            f"{self._path}: cannot read {name} ({first_line[:160]}); copy the folder again"
        )
