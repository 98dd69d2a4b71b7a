"""A training run as typed values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes import KINDS, NOVEL_KINDS
from minit2i_deploy.solvers.time_grids import MAX_STEPS
from minit2i_deploy.training.lora.targets import check_rank, lora_targets
from minit2i_deploy.training.recipe.data import DataRecipe
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.recipe.lora import LoraRecipe
from minit2i_deploy.training.recipe.parsing import check_type
from minit2i_deploy.training.recipe.paths import resolve_folder

# torch's CPU generator takes no more than 32 bits.
MAX_SEED: Final = 2**31 - 1
WARMUP_START_LR: Final = 1e-6

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "optimizer": ("adamw", "muon"),
    "precision": ("auto", "bf16", "fp32"),
    "device": ("auto", "cpu", "cuda"),
    "muon_scale": ("match_rms_adamw", "original"),
    "parallel": ("ddp", "fsdp"),
}
_NOT_NEGATIVE: Final = (
    "adam_lr",
    "checkpoint_every",
    "decay_steps",
    "ema_halflife_kimg",
    "grad_clip",
    "keep_every",
    "sample_every",
    "warmup_steps",
    "weight_decay",
)
# The official ones.
_TIMES: Final = {"time_mean": -0.8, "time_std": 0.8}
_TRACKERS: Final = ("tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything a run depends on. The same recipe gives the same weights on one machine.

    Args:
        name: of the run, for people.
        model: shape of the network.
        text_encoder: folder of the frozen T5 encoder in Hugging Face form; "package:..." is a
            folder of the installed package.
        tokenizer: folder of its tokenizer.json, likewise.
        distill: makes the run a distillation; without it a base model is trained.
        lora: trains adapters on a frozen base model, and nothing else.
        start_from: checkpoint whose averaged weights the network begins with, in any form;
            "package:..." is one of the package. Without one a base model begins with fresh
            weights, and a student with its teacher's.
        data: sources of images and captions; without any, shapes are drawn during training.
        kind_weights: how often each kind of the shapes data is drawn; empty is equally often.
        steps: optimizer steps of the whole run.
        batch: images a step, over all processes and micro-batches.
        accumulate: micro-batches that a process splits its part of the batch into.
        lr: peak learning rate; warmed up from 1e-6 over warmup_steps, then constant.
        decay_steps: last steps over which the rate falls linearly to zero; 0 keeps it constant.
        optimizer: "adamw", or "muon" for the blocks' matrices with AdamW for the rest.
        muon_scale: size of Muon's updates: "match_rms_adamw" (as AdamW's) or "original" (the
            official JAX code's, sqrt(max(1, rows / columns))).
        adam_lr: peak learning rate of AdamW beside Muon; 0 is lr.
        weight_decay: decoupled weight decay.
        ema_decay: of the exponential moving average that is deployed.
        ema_halflife_kimg: half-life of that average in thousands of images; replaces ema_decay
            where it is not 0.
        ema_rampup: the half-life is at most this share of the images trained on so far.
        label_drop: share of captions whose mask is zeroed.
        time_mean, time_std: of the normal distribution whose sigmoid the times t of flow matching
            are, 0 noise to 1 image.
        a_min: floor of 1 - t in the loss; 0.05 in official distillation.
        grad_clip: bound on the gradient's norm; 0 for none.
        precision: "bf16" (autocast), "fp32", or "auto" for bf16 where the device multiplies it and
            fp32 elsewhere. A run records which.
        device: "cpu", "cuda", or "auto" for cuda if available. Random numbers are always drawn on
            the CPU.
        parallel: with several processes: "ddp", each has the network, or "fsdp", each has a part.
        recompute: keep only the blocks' inputs and recompute their activations in the backward
            pass.
        compile: compile the network's blocks with torch.compile.
        seed: of weights, data, times, noise and caption dropping, 0 to 2**31 - 1.
        checkpoint_every, sample_every: steps between checkpoints, and between sample grids with
            a score; 0 is only at the end.
        keep_last: number of checkpoints kept.
        keep_every: checkpoints of steps that it divides are kept too; 0 for none.
        track: "tensorboard" and "wandb", any of them.
        sample_prompts: of the grids; without any, captions of shapes are sampled and scored.
        sample_guidance, sample_steps: of the grids (Euler; for a student Mean Flow and omega).

    Raises:
        UsageError: a value is of the wrong type or outside its range.
    """

    name: str
    model: ModelConfig
    text_encoder: str
    tokenizer: str
    distill: DistillRecipe | None = None
    lora: LoraRecipe | None = None
    start_from: str = ""
    data: DataRecipe = field(default_factory=DataRecipe)
    kind_weights: Mapping[str, float] = field(default_factory=dict)
    steps: int = 20000
    batch: int = 64
    accumulate: int = 1
    lr: float = 6e-4
    warmup_steps: int = 200
    decay_steps: int = 0
    optimizer: str = "adamw"
    muon_scale: str = "match_rms_adamw"
    adam_lr: float = 0.0
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    ema_halflife_kimg: float = 0.0
    ema_rampup: float = 0.05
    label_drop: float = 0.1
    time_mean: float = _TIMES["time_mean"]
    time_std: float = _TIMES["time_std"]
    a_min: float = 0.01
    grad_clip: float = 1.0
    precision: str = "auto"
    device: str = "cpu"
    parallel: str = "ddp"
    recompute: bool = False
    compile: bool = False
    seed: int = 0
    checkpoint_every: int = 500
    sample_every: int = 1000
    keep_last: int = 2
    keep_every: int = 0
    track: Sequence[str] = ()
    sample_prompts: Sequence[str] = ()
    sample_guidance: float = 3.0
    sample_steps: int = 50

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check_type(item.name, str(item.type), getattr(self, item.name))
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, " or ".join(choices))
        for name in ("steps", "batch", "accumulate", "sample_steps", "keep_last"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in _NOT_NEGATIVE:
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("track", _are_strings(self.track, _TRACKERS), f"a list of {_TRACKERS}")
        self._require("sample_prompts", _are_strings(self.sample_prompts), "a list of strings")
        self._require("seed", 0 <= self.seed <= MAX_SEED, f"in 0..{MAX_SEED}")
        self._require("lr", self.lr > 0, "above 0")
        self._require("ema_decay", 0 <= self.ema_decay < 1, "in [0, 1)")
        self._require("ema_rampup", self.ema_rampup > 0, "above 0")
        self._require("label_drop", 0 <= self.label_drop <= 1, "in 0..1")
        self._require("time_std", self.time_std > 0, "above 0")
        self._require("a_min", 0 < self.a_min <= 1, "above 0 and at most 1")
        self._require("kind_weights", _are_weights(self.kind_weights), _kind_weights_description())
        self._check_parts()
        for name in ("track", "sample_prompts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def _check_parts(self) -> None:
        draws_times = self.distill is None and not (self.lora and self.lora.learns_guidance)
        for name in ("time_mean", "time_std"):
            is_default = getattr(self, name) == _TIMES[name]
            self._require(name, draws_times or is_default, "unset where no times are drawn")
        if (self.model.student is None) != (self.distill is None):
            present, missing = (
                ("model.student", "distill") if self.model.student else ("distill", "model.student")
            )
            raise UsageError(
                f"recipe: {present} is set and {missing} is not; a few-step student needs both"
            )
        if self.distill is not None:
            if self.distill.former_teacher and not self.start_from:
                raise UsageError(
                    "recipe: distill.former_teacher is set and start_from is not; name the student "
                    "that was distilled from it"
                )
            rows = self.sample_steps * self.distill.teacher_rows
            self._require(
                "sample_steps", rows <= MAX_STEPS, f"at most {MAX_STEPS} / distill.teacher_rows"
            )
            unit = 2**self.distill.halvings
            self._require(
                "sample_steps",
                self.sample_steps % unit == 0,
                f"a multiple of 2 ** distill.halvings, {unit}",
            )
        if self.lora is not None:
            self._check_lora(self.lora)

    def _check_lora(self, lora: LoraRecipe) -> None:
        for name in ("distill", "start_from"):
            if getattr(self, name):
                raise UsageError(f"recipe: {name} is set, but adapters are trained on lora.base")
        if lora.dropout and self.recompute:
            raise UsageError(
                "recipe: lora.dropout and recompute are set, but recomputing would drop other "
                "values; remove one of the two"
            )
        check_rank(self.model, lora.rank, lora_targets(self.model, lora.targets))

    def _require(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            value = getattr(self, name)
            raise UsageError(f"recipe: {name} is {value!r}, but it must be {expected}")

    @property
    def text_encoder_folder(self) -> Path:
        return resolve_folder(self.text_encoder)

    @property
    def tokenizer_folder(self) -> Path:
        return resolve_folder(self.tokenizer)

    @property
    def start_folder(self) -> Path:
        return resolve_folder(self.start_from)

    def lr_at(self, step: int) -> float:
        """Learning rate of step number ``step``, counted from 0."""
        if step < self.warmup_steps:
            return WARMUP_START_LR + (self.lr - WARMUP_START_LR) * (step + 1) / self.warmup_steps
        remaining = self.steps - step
        return self.lr * min(1.0, remaining / self.decay_steps) if self.decay_steps else self.lr

    def to_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values |= {"model": self.model.to_dict(), "kind_weights": dict(self.kind_weights)}
        values |= {"data": self.data.to_dict()}
        values |= {"track": list(self.track), "sample_prompts": list(self.sample_prompts)}
        for name in ("distill", "lora"):
            part = values.pop(name)
            values |= {name: part.to_dict()} if part else {}
        return values


def _are_weights(weights: object) -> bool:
    if not isinstance(weights, Mapping) or not set(weights) <= {*KINDS, *NOVEL_KINDS}:
        return False
    values = list(weights.values())
    numbers = all(type(value) in (int, float) and value >= 0 for value in values)
    return not values or (numbers and 0 < sum(values) < math.inf)


def _are_strings(values: object, known: Sequence[str] = ()) -> bool:
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        return False
    return not known or set(values) <= set(known)


def _kind_weights_description() -> str:
    names = ", ".join((*KINDS, *NOVEL_KINDS))
    return f"numbers, not negative and not all 0, for kinds among {names}"
