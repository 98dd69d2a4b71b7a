"""The data part of a recipe: sources of images and captions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.training.recipe.parsing import check_keys, parse_number
from minit2i_deploy.training.recipe.paths import resolve_relative

# In place of shard names: images that are drawn during training.
SHAPES: Final = "shapes"
TEXT_SUFFIX: Final = "txt"
JSON_PREFIX: Final = "json:"


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecipe:
    """One source of a mix.

    Args:
        shards: paths or addresses of tar files, with {0000..0099} and, for local ones, * and ?;
            "shapes" alone is the data set that is drawn during training.
        weight: how often it is drawn relative to the other sources, in any unit.
        caption: the member that holds the caption: "txt", another suffix of a text file, or
            "json:FIELD" for a field of the .json file.
        min_side: images whose shorter side has fewer pixels are bad samples; 0 accepts all.

    Raises:
        UsageError: a value is of the wrong type or outside its range.
    """

    shards: tuple[str, ...]
    weight: float = 1.0
    caption: str = TEXT_SUFFIX
    min_side: int = 0

    def __post_init__(self) -> None:
        value: object = self.shards
        shards = (value,) if isinstance(value, str) else value
        names = tuple(shards) if isinstance(shards, list | tuple) else ()
        valid = len(names) > 0 and all(isinstance(item, str) and item for item in names)
        self._require("shards", valid, "names of tar files, or shapes")
        self._require("shards", len(names) == 1 or SHAPES not in names, "shapes alone or tar files")
        object.__setattr__(self, "shards", names)
        valid = type(self.weight) in (int, float) and 0 < self.weight < math.inf
        self._require("weight", valid, "a number above 0; remove the source to draw none of it")
        valid = isinstance(self.caption, str) and self.caption not in ("", JSON_PREFIX)
        self._require("caption", valid, "a suffix such as txt, or json:FIELD")
        self._require("min_side", type(self.min_side) is int and self.min_side >= 0, "0 or more")

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            value = getattr(self, name)
            raise UsageError(f"recipe: data.{name} is {value!r}, but it must be {expected}")

    @property
    def is_drawn(self) -> bool:
        """Whether this source is the shapes data, drawn during training."""
        return self.shards == (SHAPES,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        return dataclasses.asdict(self) | {"shards": list(self.shards)}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataRecipe:
    """A mix of sources and how it is read.

    Args:
        sources: at least one.
        window: samples that are shuffled among each other, after the shards were; 1 leaves the
            samples of a shard in their order.
        bad_limit: different bad samples that are skipped; one more stops the run.
        workers: processes that read ahead; 0 reads in the training process. The order does not
            depend on it.
        threads: of each of them, for reading and decoding.
        cache: folder for copies of remote shards; without one, each sample is read remotely with a
            range request.

    Raises:
        UsageError: a value is of the wrong type or outside its range.
    """

    sources: tuple[SourceRecipe, ...] = (SourceRecipe(shards=(SHAPES,)),)
    window: int = 10_000
    bad_limit: int = 100
    workers: int = 1
    threads: int = 4
    cache: str = ""

    def __post_init__(self) -> None:
        valid = len(self.sources) > 0 and all(isinstance(s, SourceRecipe) for s in self.sources)
        self._require("sources", valid, "one source or more")
        for name, least in (("window", 1), ("bad_limit", 0), ("workers", 0), ("threads", 1)):
            value = getattr(self, name)
            self._require(name, type(value) is int and value >= least, f"{least} or more")
        self._require("cache", isinstance(self.cache, str), "a folder")

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            value = getattr(self, name)
            raise UsageError(f"recipe: data.{name} is {value!r}, but it must be {expected}")

    def to_dict(self) -> dict[str, Any] | str:
        """Plain values for YAML and JSON; "shapes" for that source alone."""
        if self == DataRecipe():
            return SHAPES
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"sources": [source.to_dict() for source in self.sources]}


def parse_data(value: object) -> DataRecipe:
    """Build from a recipe's value.

    Args:
        value: "shapes", a list of sources, or a mapping with ``sources`` and how they are read. A
            source is a mapping of its own keys, or the name of its shards.

    Raises:
        UsageError: a key is unknown or missing, or a value is outside its range.
    """
    if isinstance(value, DataRecipe):
        return value
    if value == SHAPES:
        return DataRecipe()
    if isinstance(value, list | tuple):
        value = {"sources": value}
    if not isinstance(value, Mapping):
        raise UsageError(
            f"recipe: data is {value!r}, but it must be {SHAPES}, a list of sources, or a mapping"
        )
    check_keys("data.", value, dataclasses.fields(DataRecipe))
    sources = value.get("sources", [SHAPES])
    if not isinstance(sources, list | tuple):
        raise UsageError(f"recipe: data.sources is {sources!r}, but it must be a list of sources")
    return DataRecipe(**{**value, "sources": tuple(map(_source, sources))})


def _source(value: object) -> SourceRecipe:
    if isinstance(value, SourceRecipe):
        return value
    if isinstance(value, str):
        value = {"shards": value}
    if not isinstance(value, Mapping):
        raise UsageError(
            f"recipe: a data source is {value!r}, but it must be a mapping of its keys"
        )
    check_keys("data.", value, dataclasses.fields(SourceRecipe))
    return SourceRecipe(
        **{**value, "weight": parse_number(SourceRecipe, "weight", value.get("weight", 1.0))}
    )


def resolve_data_paths(value: object, folder: Path) -> object:
    """The same data with relative paths resolved from ``folder``; not yet validated."""
    if isinstance(value, str):
        return value if value == SHAPES or "://" in value else resolve_relative(value, folder)
    if isinstance(value, list | tuple):
        return [resolve_data_paths(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    keys = ("sources", "shards", "cache")
    resolved = {key: resolve_data_paths(value[key], folder) for key in keys if value.get(key)}
    return value | resolved
