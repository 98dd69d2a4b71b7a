"""A training run as typed values, read from YAML; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError, UsageError, require


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything a run depends on. The same recipe gives the same weights on one machine.

    Args:
        name: of the run, for people.
        model: shape of the network.
        text_encoder: folder of the frozen T5 encoder in Hugging Face form.
        tokenizer: folder of its tokenizer.json.
        data: source of pictures and captions; "shapes" is drawn as it goes.
        kind_weights: how often each kind of the shapes data is drawn; empty is equally often.
        steps: optimizer steps of the whole run.
        batch: pictures a step.
        lr: peak learning rate; warmed up from 1e-6 over warmup_steps, then constant.
        decay_steps: last steps over which the rate falls linearly to zero; 0 keeps it constant.
        optimizer: "adamw", or "muon" for the blocks' matrices with AdamW for the rest.
        weight_decay: decoupled weight decay.
        ema_decay: of the exponential moving average that is deployed.
        label_drop: share of captions whose mask is zeroed.
        a_min: floor of 1 - t in the loss.
        grad_clip: bound on the gradient's norm; 0 is none.
        precision: "bf16" (autocast) or "fp32".
        compile: compile the network with torch.compile.
        seed: of weights, data, times, noise and caption dropping.
        checkpoint_every, sample_every: steps between checkpoints, and between sample grids with
            a score; 0 is only at the end.
        keep_last: number of checkpoints kept.
        sample_guidance, sample_steps: of the grids (Euler).
    """

    name: str
    model: ModelConfig
    text_encoder: str
    tokenizer: str
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
    label_drop: float = 0.1
    a_min: float = 0.01
    grad_clip: float = 1.0
    precision: str = "bf16"
    compile: bool = False
    seed: int = 0
    checkpoint_every: int = 500
    sample_every: int = 1000
    keep_last: int = 2
    sample_guidance: float = 3.0
    sample_steps: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "sample_steps", "keep_last"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("checkpoint_every", "sample_every", "warmup_steps", "decay_steps", "seed"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        _check("lr", self.lr, self.lr > 0, "above 0")
        _check("ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "in [0, 1)")
        _check("label_drop", self.label_drop, 0 <= self.label_drop <= 1, "in 0..1")
        _check("a_min", self.a_min, 0 < self.a_min <= 1, "above 0 and at most 1")
        _check("optimizer", self.optimizer, self.optimizer in ("adamw", "muon"), "adamw or muon")
        _check("precision", self.precision, self.precision in ("bf16", "fp32"), "bf16 or fp32")
        _check("data", self.data, self.data == "shapes", "shapes")

    def lr_at(self, step: int) -> float:
        """Learning rate of step number ``step``, counted from 0."""
        start = 1e-6
        if step < self.warmup_steps:
            return start + (self.lr - start) * (step + 1) / self.warmup_steps
        left = self.steps - step
        return self.lr * min(1.0, left / self.decay_steps) if self.decay_steps else self.lr

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"model": self.model.to_dict(), "kind_weights": dict(self.kind_weights)}


def _check(name: str, value: object, good: bool, wanted: str) -> None:
    if not good:
        raise UsageError(f"recipe: {name} is {value!r}, but it must be {wanted}")


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
        raise UsageError(f"{path}: cannot be read as a recipe: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values")
    for override in overrides:
        key, found, text = override.partition("=")
        if not found:
            raise UsageError(f"override {override!r} must have the form key=value")
        _set(values, key.split("."), yaml.safe_load(text))
    for key in ("text_encoder", "tokenizer"):
        if isinstance(values.get(key), str):
            values[key] = str((path.parent / values[key]).resolve())
    return recipe_from_dict(values)


def _set(values: dict[str, Any], keys: list[str], value: object) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    values[keys[-1]] = value


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build from ``Recipe.to_dict``'s form.

    Raises:
        UsageError: a key is unknown or missing, or a value is outside its range.
    """
    known = [f.name for f in dataclasses.fields(Recipe)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}"
            raise UsageError(f"recipe: unknown key {key!r}{hint}")
    try:
        model = ModelConfig.from_dict(values["model"])
        return Recipe(**{**values, "model": model})
    except (KeyError, TypeError, CheckpointError) as error:
        raise UsageError(f"recipe: {error}") from error
