"""A training run as typed values, read from YAML; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.demo.shapes import KINDS
from minit2i_deploy.errors import CheckpointError, UsageError, require
from minit2i_deploy.training.distill_recipe import DistillRecipe
from minit2i_deploy.training.folders import beside, folder_named

# torch's CPU generator takes no more than 32 bits.
MAX_SEED: Final = 2**31 - 1
WARMUP_START_LR: Final = 1e-6

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "data": ("shapes",),
    "optimizer": ("adamw", "muon"),
    "precision": ("bf16", "fp32"),
    "device": ("auto", "cpu", "cuda"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything a run depends on. The same recipe gives the same weights on one machine.

    Args:
        name: of the run, for people.
        model: shape of the network.
        text_encoder: folder of the frozen T5 encoder in Hugging Face form; "package:..." is a
            folder of the installed package.
        tokenizer: folder of its tokenizer.json, likewise.
        distill: makes the run a Mean Flow distillation; without it a base model is trained.
        data: source of pictures and captions; "shapes" is drawn as it goes.
        kind_weights: how often each kind of the shapes data is drawn; empty is equally often.
        steps: optimizer steps of the whole run.
        batch: pictures a step.
        lr: peak learning rate; warmed up from 1e-6 over warmup_steps, then constant.
        decay_steps: last steps over which the rate falls linearly to zero; 0 keeps it constant.
        optimizer: "adamw", or "muon" for the blocks' matrices with AdamW for the rest.
        weight_decay: decoupled weight decay.
        ema_decay: of the exponential moving average that is deployed.
        ema_halflife_kimg: half-life of that average in thousands of pictures; takes the place of
            ema_decay where it is not 0.
        ema_rampup: the half-life is at most this share of the pictures seen so far.
        label_drop: share of captions whose mask is zeroed.
        a_min: floor of 1 - t in the loss; 0.05 in official distillation.
        grad_clip: bound on the gradient's norm; 0 is none.
        precision: "bf16" (autocast) or "fp32".
        device: "cpu", "cuda", or "auto" for cuda where there is one. Random draws are made on
            the CPU in every case.
        compile: compile the network with torch.compile.
        seed: of weights, data, times, noise and caption dropping, 0 to 2**31 - 1.
        checkpoint_every, sample_every: steps between checkpoints, and between sample grids with
            a score; 0 is only at the end.
        keep_last: number of checkpoints kept.
        sample_guidance, sample_steps: of the grids (Euler; for a student Mean Flow and omega).

    Raises:
        UsageError: a value is of the wrong type or outside its range.
    """

    name: str
    model: ModelConfig
    text_encoder: str
    tokenizer: str
    distill: DistillRecipe | None = None
    data: str = "shapes"
    kind_weights: Mapping[str, float] = field(default_factory=dict)
    steps: int = 20000
    batch: int = 64
    lr: float = 6e-4
    warmup_steps: int = 200
    decay_steps: int = 0
    optimizer: str = "adamw"
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    ema_halflife_kimg: float = 0.0
    ema_rampup: float = 0.05
    label_drop: float = 0.1
    a_min: float = 0.01
    grad_clip: float = 1.0
    precision: str = "bf16"
    device: str = "cpu"
    compile: bool = False
    seed: int = 0
    checkpoint_every: int = 500
    sample_every: int = 1000
    keep_last: int = 2
    sample_guidance: float = 3.0
    sample_steps: int = 50

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _check_type(item.name, str(item.type), getattr(self, item.name))
        for name, choices in _CHOICES.items():
            self._check(name, getattr(self, name) in choices, " or ".join(choices))
        for name in ("steps", "batch", "sample_steps", "keep_last"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("checkpoint_every", "sample_every", "warmup_steps", "decay_steps"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in ("weight_decay", "grad_clip"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        if (self.model.student is None) != (self.distill is None):
            given, missing = (
                ("model.student", "distill") if self.model.student else ("distill", "model.student")
            )
            raise UsageError(
                f"recipe: {given} is set and {missing} is not; a few-step student needs both"
            )
        self._check("seed", 0 <= self.seed <= MAX_SEED, f"in 0..{MAX_SEED}")
        self._check("lr", self.lr > 0, "above 0")
        self._check("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        self._check("ema_halflife_kimg", self.ema_halflife_kimg >= 0, "0 or more")
        self._check("ema_rampup", self.ema_rampup > 0, "above 0")
        self._check("label_drop", 0 <= self.label_drop <= 1, "in 0..1")
        self._check("a_min", 0 < self.a_min <= 1, "above 0 and at most 1")
        self._check("kind_weights", _are_weights(self.kind_weights), _weights_wanted())

    def _check(self, name: str, good: bool, wanted: str) -> None:
        if not good:
            value = getattr(self, name)
            raise UsageError(f"recipe: {name} is {value!r}, but it must be {wanted}")

    @property
    def text_encoder_folder(self) -> Path:
        return folder_named(self.text_encoder)

    @property
    def tokenizer_folder(self) -> Path:
        return folder_named(self.tokenizer)

    def lr_at(self, step: int) -> float:
        """Learning rate of step number ``step``, counted from 0."""
        if step < self.warmup_steps:
            return WARMUP_START_LR + (self.lr - WARMUP_START_LR) * (step + 1) / self.warmup_steps
        left = self.steps - step
        return self.lr * min(1.0, left / self.decay_steps) if self.decay_steps else self.lr

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values |= {"model": self.model.to_dict(), "kind_weights": dict(self.kind_weights)}
        if self.distill is None:
            del values["distill"]
            return values
        return values | {"distill": self.distill.to_dict()}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides (``model.depth_double=2`` reaches inside).

    Relative folders in the file are taken from the file's own folder.

    Raises:
        UsageError: the file cannot be read, a key is unknown (the nearest name is given), or a
            value is outside its range.
    """
    yaml = require("yaml", "train")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as a recipe: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values")
    for holder, key in (
        (values, "text_encoder"),
        (values, "tokenizer"),
        (values.get("distill"), "teacher"),
    ):
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            holder[key] = beside(holder[key], path.parent)
    for override in overrides:
        key, found, text = override.partition("=")
        if not found:
            raise UsageError(f"override {override!r} must have the form key=value")
        try:
            _set(values, key.split("."), yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise UsageError(f"override {override!r}: {_one_line(error)}") from error
    try:
        return recipe_from_dict(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build from ``Recipe.to_dict``'s form.

    Raises:
        UsageError: a key is unknown or missing, or a value is outside its range.
    """
    model = values.get("model")
    _check_keys("", values, dataclasses.fields(Recipe))
    if not isinstance(model, Mapping):
        raise UsageError(f"recipe: model is {model!r}, but it must be a mapping of its own keys")
    _check_keys("model.", model, dataclasses.fields(ModelConfig))
    try:
        config = ModelConfig.from_dict(model)
    except (TypeError, CheckpointError) as error:
        text = str(error).removeprefix("config: ").replace("fix config.json", "fix the recipe")
        raise UsageError(f"recipe: model: {text}") from error
    numbers = {key: _number(Recipe, key, value) for key, value in values.items()}
    return Recipe(**numbers | {"model": config, "distill": _distill(values.get("distill"))})


def _distill(values: object) -> DistillRecipe | None:
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise UsageError(f"recipe: distill is {values!r}, but it must be a mapping of its own keys")
    _check_keys("distill.", values, dataclasses.fields(DistillRecipe))
    return DistillRecipe(
        **{key: _number(DistillRecipe, key, value) for key, value in values.items()}
    )


def _set(values: dict[str, Any], keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise UsageError(f"override {'.'.join(keys)}: {key} holds one value and no keys")
    values[keys[-1]] = value


def _check_keys(
    prefix: str, values: Mapping[str, Any], fields: Iterable[dataclasses.Field[Any]]
) -> None:
    names = {item.name: item for item in fields}
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(names)}"
            raise UsageError(f"recipe: unknown key {f'{prefix}{key}'!r}; {hint}")
    for key, item in names.items():
        optional = {item.default, item.default_factory} != {dataclasses.MISSING}
        if key not in values and not optional:
            raise UsageError(f"recipe: {prefix}{key} is missing; add it")


def _number(owner: type[Recipe | DistillRecipe], name: str, value: Any) -> Any:
    """YAML 1.1 reads 1e-3 without a dot as text."""
    if isinstance(value, str) and owner.__dataclass_fields__[name].type == "float":
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _check_type(name: str, wanted: str, value: object) -> None:
    types: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "bool": (bool,),
        "int": (int,),
        "float": (int, float),
    }
    if wanted not in types:
        return
    words = {"str": "text", "bool": "true or false", "int": "a whole number", "float": "a number"}
    good = isinstance(value, types[wanted]) and isinstance(value, bool) == (wanted == "bool")
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"recipe: {name} is {value!r}, but it must be {words[wanted]}")


def _are_weights(weights: object) -> bool:
    if not isinstance(weights, Mapping) or not set(weights) <= set(KINDS):
        return False
    values = list(weights.values())
    numbers = all(type(value) in (int, float) and value >= 0 for value in values)
    return not values or (numbers and 0 < sum(values) < math.inf)


def _weights_wanted() -> str:
    return f"numbers, not negative and not all 0, for kinds among {', '.join(KINDS)}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
