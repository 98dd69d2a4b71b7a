"""The training loop, read from top to bottom.

Everything random in step k is drawn from (seed, k), so a run that is stopped and resumed makes
the same weights as one that is not, to the last bit on one machine.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.files import atomic_write_text
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.checkpoint import (
    TrainingState,
    checkpoints,
    load_checkpoint_state,
    remove_leftovers,
    save_checkpoint,
)
from minit2i_deploy.training.data import batches, to_network_range
from minit2i_deploy.training.device import pick_device
from minit2i_deploy.training.distill import MeanFlow
from minit2i_deploy.training.ema import EMA, ema_decay_at
from minit2i_deploy.training.flow_matching import FlowMatching
from minit2i_deploy.training.log import Log
from minit2i_deploy.training.objective import Batch, Objective
from minit2i_deploy.training.optimizers import Optimizers
from minit2i_deploy.training.progress import Progress
from minit2i_deploy.training.recipe import Recipe
from minit2i_deploy.training.samples import Sampler
from minit2i_deploy.training.text import FrozenText

LOG_EVERY_STEPS = 50


class Trainer:
    """One run: network, average, optimizer and their step count.

    Args:
        recipe: what to train, and by which objective.
        folder: receives checkpoints, sample grids, log.jsonl and recipe.json. If it holds
            checkpoints of the same network, the run continues after the last one.

    Raises:
        TrainingError: the folder belongs to another network, optimizer or teacher, its last
            checkpoint is damaged, or the text encoder or the device is not there.
        CheckpointError: the teacher cannot be read.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.device = pick_device(recipe.device)
        model = recipe.model
        kind = MeanFlow if recipe.distill else FlowMatching
        self.objective: Objective = kind(recipe, self.device)
        self.net = MMJiT(model)
        self.objective.fill(self.net)
        self.net.to(self.device)
        self.parameters = self.net.canonical_parameters()
        self.ema = EMA(self.parameters)
        self.optimizers = Optimizers(self.parameters, recipe)
        self.text = FrozenText(
            recipe.text_encoder_folder,
            recipe.tokenizer_folder,
            model.prompt_length,
            model.txt_input_size,
        )
        self.step = 0
        if found := checkpoints(folder):
            self._resume(found[-1])

    def _resume(self, path: Path) -> None:
        state = load_checkpoint_state(path, self.recipe)
        if state.teacher_sha256 != self.objective.teacher_sha256:
            raise TrainingError(
                f"{path}: was distilled from another teacher than distill.teacher; use another "
                "output folder or that teacher"
            )
        try:
            with torch.no_grad():
                for name, value in self.parameters.items():
                    value.copy_(state.model[name])
            self.ema.load(state.ema)
            self.optimizers.load_state_dict(state.optimizer)
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{path}: its tensors do not fit the recipe ({error}); resume with the optimizer "
                "it was written with, or use another output folder"
            ) from error
        self.step = state.step

    def run(self) -> Path:
        """Train to the recipe's last step.

        Returns:
            the last checkpoint's folder.

        Raises:
            TrainingError: the loss or the gradient stopped being finite; the last checkpoint
                stands.
            UsageError: the folder may not be written.
        """
        recipe = self.recipe
        if self.step >= recipe.steps:
            return checkpoints(self.folder)[-1]
        log = self._prepare_folder()
        sampler = Sampler(self.net, self.text, recipe, self.folder / "samples")
        figures: dict[str, float] = {}
        with Progress(recipe.name, recipe.steps, start=self.step, log_every_s=30.0) as progress:
            for images, captions in batches(recipe, self.step):
                figures["loss"] = self.train_step(images, captions)
                last = self.step == recipe.steps
                if self.step % LOG_EVERY_STEPS == 0 or last:
                    lr = recipe.lr_at(self.step - 1)
                    log.write(step=self.step, loss=figures["loss"], lr=lr)
                if last or _due(self.step, recipe.sample_every):
                    figures["score"] = sampler(self.ema.tensors, self.step).overall.accuracy
                    log.write(step=self.step, score=figures["score"])
                if last or _due(self.step, recipe.checkpoint_every):
                    self._save()
                progress.update(self.step, **figures)
        return checkpoints(self.folder)[-1]

    def train_step(self, images: Tensor, captions: list[str]) -> float:
        """One optimizer step.

        Args:
            images: uint8 [B, H, W, 3].
            captions: B texts.

        Returns:
            the objective's reported loss, before the update.

        Raises:
            TrainingError: the loss or the gradient is not finite; nothing was updated.
        """
        recipe = self.recipe
        context, mask = self.text(captions)
        batch = Batch(images=to_network_range(images), context=context, mask=mask)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss, reported = self.objective.loss(self.net, batch, self.step)
        value = self._finite("loss", reported)
        loss.backward()
        # An infinite bound leaves the gradient as it is; the norm is wanted in any case.
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), recipe.grad_clip or math.inf)
        self._finite("gradient's norm", norm)
        self.optimizers.step(recipe.lr_at(self.step))
        self.step += 1
        self.ema.update(self.parameters, ema_decay_at(recipe, self.step))
        return value

    def _finite(self, name: str, value: Tensor) -> float:
        number = float(value)
        if not math.isfinite(number):
            raise TrainingError(
                f"{self.folder}: the {name} of step {self.step + 1} is {number}; the last "
                "checkpoint stands, continue from it with a lower lr"
            )
        return number

    def _prepare_folder(self) -> Log:
        resolved = json.dumps(self.recipe.to_dict(), indent=2, sort_keys=True) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder}: cannot be made ({error.strerror}); choose a folder you can write"
            ) from error
        remove_leftovers(self.folder)
        atomic_write_text(self.folder / "recipe.json", resolved)
        return Log(self.folder / "log.jsonl", self.step)

    def _save(self) -> None:
        state = TrainingState(
            step=self.step,
            model=self.parameters,
            ema=self.ema.tensors,
            optimizer=self.optimizers.state_dict(),
            teacher_sha256=self.objective.teacher_sha256,
        )
        save_checkpoint(self.folder, self.recipe, state)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
