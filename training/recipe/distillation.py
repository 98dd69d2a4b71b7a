"""The distillation part of a recipe."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.training.recipe.paths import resolve_folder

# Keys of the noise levels that Mean Flow draws.
_LEVEL_KEYS: Final = ("level_mean", "level_std", "longest_step", "plain_share", "equal_share")
# A table has 10,000 rows at most.
_MAX_HALVINGS: Final = 13
STATES: Final = ("data", "prior")
TANGENTS: Final = ("teacher", "student")


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRecipe:
    """Teacher, and the conditions a student is trained with. The defaults are the official ones.

    Args:
        teacher: checkpoint of the base model in any form; "package:..." is one of the package.
        former_teacher: the base model that the recipe's start_from was distilled from, of which the
            teacher is a later form. The student then begins as the teacher, changed as distillation
            changed the former one. Empty: it begins as start_from is.
        omega: lowest and highest guidance scale, drawn log-uniformly.
        t_min: lowest and highest noise level where guidance ends (0 image, 1 noise).
        t_max: likewise where it begins.
        level_mean, level_std: of the normal distribution whose sigmoid the noise levels t and r
            are.
        longest_step: bound on t - r; a student that runs in n equal steps needs 1/n.
        plain_share: share of each batch with r = t, which learns the velocity itself.
        equal_share: share of the other images whose step is one of the recipe's sample_steps equal
            steps, instead of one drawn from the distribution of levels.
        teacher_rows: 0 is Mean Flow. Otherwise the student is trained on the teacher's own
            trajectories, and this many solver rows of the teacher make one of the recipe's
            sample_steps equal steps. No noise level is drawn then, and level_mean, level_std,
            longest_step, plain_share and equal_share must not be set.
        halvings: how often the number of steps is halved on the teacher's trajectories: with
            sample_steps 4, 0 trains steps of a quarter alone, 1 also those of a half, and 2 also
            the one from noise to image. sample_steps must be a multiple of 2 ** halvings.
        trajectory_uses: how many steps train on each batch of the teacher's trajectories, each time
            with other weights of the student. The teacher then samples in one step of so many.
        trajectory_pool: batches of trajectories that are used again and again before new ones are
            sampled. They stay in memory.
        states: where the student is asked: "data", at noised images (Mean Flow), or "prior", at the
            states that it reaches itself from noise (FreeFlow 2511.19428), in sample_steps equal
            steps. For "prior" the same keys must not be set as for teacher_rows.
        tangent: of Mean Flow's derivative: "teacher", the teacher's guided velocity, or "student",
            the student's own, as in improved Mean Flow (2512.02012) and pixel Mean Flow
            (2601.22158).
        sample_t_min, sample_t_max: conditions of the student in sample grids, and in the tables of
            a bundle that is exported from it.

    Raises:
        UsageError: a value is of the wrong type or outside its range.
    """

    teacher: str
    former_teacher: str = ""
    omega: tuple[float, float] = (1.0, 13.0)
    t_min: tuple[float, float] = (0.0, 0.5)
    t_max: tuple[float, float] = (0.5, 1.0)
    level_mean: float = 0.8
    level_std: float = 0.8
    longest_step: float = 1.0
    plain_share: float = 0.5
    equal_share: float = 0.0
    teacher_rows: int = 0
    halvings: int = 0
    trajectory_uses: int = 1
    trajectory_pool: int = 64
    states: str = "data"
    tangent: str = "teacher"
    sample_t_min: float = 0.2
    sample_t_max: float = 0.8

    def __post_init__(self) -> None:
        self._require("teacher", isinstance(self.teacher, str) and self.teacher != "", "a path")
        self._require("former_teacher", isinstance(self.former_teacher, str), "a path")
        for name in ("omega", "t_min", "t_max"):
            value = getattr(self, name)
            valid = isinstance(value, list | tuple) and len(value) == 2 and all(map(_real, value))
            self._require(name, valid and value[0] <= value[1], "[lowest, highest]")
            object.__setattr__(self, name, tuple(map(float, value)))
        self._require("omega", self.omega[0] >= 1, "1 or more")
        for name in ("t_min", "t_max"):
            low, high = getattr(self, name)
            self._require(name, low >= 0 and high <= 1, "in 0..1")
        self._require("t_min", self.t_min[1] <= self.t_max[0], "no higher than t_max")
        self._require("level_mean", _real(self.level_mean), "a finite number")
        self._require("level_std", _real(self.level_std) and self.level_std > 0, "above 0")
        valid = _real(self.longest_step) and 0 < self.longest_step <= 1
        self._require("longest_step", valid, "above 0 and at most 1")
        for name in ("plain_share", "equal_share", "sample_t_min", "sample_t_max"):
            value = getattr(self, name)
            self._require(name, _real(value) and 0 <= value <= 1, "in 0..1")
        valid = self.sample_t_min <= self.sample_t_max
        self._require("sample_t_min", valid, "no higher than sample_t_max")
        for name in ("teacher_rows", "halvings"):
            value = getattr(self, name)
            self._require(name, type(value) is int and value >= 0, "an integer, 0 or more")
        # Before anything computes 2 ** halvings.
        self._require("halvings", self.halvings <= _MAX_HALVINGS, f"at most {_MAX_HALVINGS}")
        needless = self.halvings and not self.teacher_rows
        self._require("halvings", not needless, "0 without distill.teacher_rows")
        for name in ("trajectory_uses", "trajectory_pool"):
            value = getattr(self, name)
            self._require(name, type(value) is int and value >= 1, "an integer, 1 or more")
        needless = self.trajectory_uses > 1 and not self.teacher_rows
        self._require("trajectory_uses", not needless, "1 without distill.teacher_rows")
        for name, choices in (("states", STATES), ("tangent", TANGENTS)):
            valid = getattr(self, name) in choices
            self._require(name, valid, f"one of {', '.join(choices)}")
        if self.teacher_rows:
            self._check_unset(
                "teacher_rows", "on the teacher's trajectories", (*_LEVEL_KEYS, "states", "tangent")
            )
        if self.states == "prior":
            self._check_unset("states", "on the student's own states", (*_LEVEL_KEYS, "tangent"))

    def _check_unset(self, chosen: str, where: str, names: tuple[str, ...]) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise UsageError(
                    f"recipe: distill.{name} and distill.{chosen} are set, but {where} it has no "
                    "meaning; remove one of the two"
                )

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            value = getattr(self, name)
            raise UsageError(f"recipe: distill.{name} is {value!r}, but it must be {expected}")

    @property
    def pooled_batches(self) -> int:
        """Batches of trajectories that are in memory; 0 where each serves one step."""
        return self.trajectory_pool if self.trajectory_uses > 1 else 0

    @property
    def teacher_folder(self) -> Path:
        return resolve_folder(self.teacher)

    @property
    def former_teacher_folder(self) -> Path:
        return resolve_folder(self.former_teacher)

    def conditions(self, omega: float) -> dict[str, float]:
        """The student's conditions in sample grids, and by default in an exported bundle."""
        return {"omega": omega, "t_min": self.sample_t_min, "t_max": self.sample_t_max}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        values = dataclasses.asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def _real(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
