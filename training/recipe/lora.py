"""The LoRA part of a recipe."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.time_grids import MAX_STEPS
from minit2i_deploy.training.lora.targets import BLOCKS
from minit2i_deploy.training.recipe.paths import resolve_folder

_ROWS: Final = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraRecipe:
    """Base model and size of its adapter. The defaults are the official ones without txt_embedder.

    Args:
        base: checkpoint of the base model in any form; "package:..." is one of the package.
        rank: of every pair of matrices.
        alpha: the product of a pair is scaled by alpha / rank.
        dropout: share of a pair's inputs zeroed in training.
        targets: canonical names of linear layers, or parts and patterns of them; see
            ``lora_targets``.
        new_words: words or phrases that mark captions with something the base does not know; at
            all others the target is the base's own prediction (prior preservation). Empty: the
            target is the image everywhere.
        guidance: 1 trains on images. Above 1 the adapter learns, from the base's own trajectories
            and without images, to give in one evaluation the estimate guided by this scale.
        trajectory_rows: solver rows of these trajectories, each a state that is learned.

    Raises:
        UsageError: a value is of the wrong type or outside its range, or without effect.
    """

    base: str
    rank: int = 32
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = BLOCKS
    new_words: tuple[str, ...] = ()
    guidance: float = 1.0
    trajectory_rows: int = _ROWS

    def __post_init__(self) -> None:
        self._require("base", isinstance(self.base, str) and self.base != "", "a path")
        self._require("rank", type(self.rank) is int and self.rank >= 1, "1 or more")
        self._require("alpha", _real(self.alpha) and self.alpha > 0, "above 0")
        self._require("dropout", _real(self.dropout) and 0 <= self.dropout < 1, "in [0, 1)")
        valid = isinstance(self.targets, list | tuple) and len(self.targets) > 0
        valid = valid and all(isinstance(item, str) and item for item in self.targets)
        self._require("targets", valid, "a list of names")
        object.__setattr__(self, "targets", tuple(self.targets))
        valid = isinstance(self.new_words, list | tuple)
        valid = valid and all(isinstance(item, str) and item.strip() for item in self.new_words)
        self._require("new_words", valid, "a list of words")
        object.__setattr__(self, "new_words", tuple(self.new_words))
        self._require("guidance", _real(self.guidance) and self.guidance >= 1, "1 or more")
        valid = type(self.trajectory_rows) is int and 1 < self.trajectory_rows <= MAX_STEPS
        self._require("trajectory_rows", valid, f"in 2..{MAX_STEPS}")
        if not self.learns_guidance and self.trajectory_rows != _ROWS:
            raise UsageError(
                f"recipe: lora.trajectory_rows is {self.trajectory_rows}, but lora.guidance is 1, "
                "and only guidance is learned from trajectories; set it above 1, or remove the rows"
            )
        if self.new_words and self.learns_guidance:
            raise UsageError(
                "recipe: lora.new_words and lora.guidance are set, but guidance is learned from "
                "the base's own estimates alone; remove one of the two"
            )

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            value = getattr(self, name)
            raise UsageError(f"recipe: lora.{name} is {value!r}, but it must be {expected}")

    @property
    def learns_guidance(self) -> bool:
        """Whether the adapter learns the guided estimate instead of images."""
        return self.guidance > 1

    @property
    def base_folder(self) -> Path:
        return resolve_folder(self.base)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        values = dataclasses.asdict(self) | {
            "targets": list(self.targets),
            "new_words": list(self.new_words),
        }
        if not self.learns_guidance:
            # Without guidance to learn, an adapter says what earlier releases say and read.
            for name in ("guidance", "trajectory_rows"):
                del values[name]
        return values


def _real(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
