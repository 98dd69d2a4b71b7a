"""The training loop, read from top to bottom.

Everything random in step k is drawn from (seed, k), so a run that is stopped and resumed makes
the same weights as one that is not, to the last bit on one machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minit2i_deploy.errors import TrainingError
from minit2i_deploy.files import atomic_write_text
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.checkpoint import checkpoints, load_training_state, save_checkpoint
from minit2i_deploy.training.data import batches, to_network_range
from minit2i_deploy.training.ema import EMA
from minit2i_deploy.training.initialise import initialise
from minit2i_deploy.training.loss import draw_times, drop_captions, flow_matching_loss
from minit2i_deploy.training.optimizers import Optimizers
from minit2i_deploy.training.progress import Progress
from minit2i_deploy.training.recipe import Recipe
from minit2i_deploy.training.samples import Sampler
from minit2i_deploy.training.text import FrozenText

DRAW_STREAM = 2
LOG_EVERY_STEPS = 50


class Trainer:
    """One run: network, average, optimizer and their step count.

    Args:
        recipe: what to train.
        folder: receives checkpoints, sample grids, log.jsonl and recipe.json. If it holds
            checkpoints of the same network, the run continues after the last one.

    Raises:
        TrainingError: the folder belongs to another network.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        model = recipe.model
        self.net = MMJiT(model)
        initialise(self.net, recipe.seed)
        self.parameters = self.net.canonical_parameters()
        self.ema = EMA(self.parameters, recipe.ema_decay)
        self.optimizers = Optimizers(self.parameters, recipe)
        self.text = FrozenText(
            recipe.text_encoder, recipe.tokenizer, model.prompt_length, model.txt_input_size
        )
        self.forward: Callable[..., Tensor] = (
            torch.compile(self.net, dynamic=False) if recipe.compile else self.net
        )
        self.step = 0
        if found := checkpoints(folder):
            self._resume(found[-1])

    def _resume(self, path: Path) -> None:
        self.step, model, ema, optimizer = load_training_state(path, self.recipe)
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(model[name])
        self.ema.load(ema)
        self.optimizers.load_state_dict(optimizer)

    def run(self) -> Path:
        """Train to the recipe's last step.

        Returns:
            the last checkpoint's folder.

        Raises:
            TrainingError: the loss stopped being finite; the last checkpoint stands.
        """
        recipe = self.recipe
        self.folder.mkdir(parents=True, exist_ok=True)
        resolved = json.dumps(recipe.to_dict(), indent=2, sort_keys=True) + "\n"
        atomic_write_text(self.folder / "recipe.json", resolved)
        sampler = Sampler(self.net, self.text, recipe, self.folder / "samples")
        if self.step >= recipe.steps:
            return checkpoints(self.folder)[-1]
        with Progress(recipe.name, recipe.steps, start=self.step, log_every_s=30.0) as progress:
            score = math.nan
            for images, captions in batches(recipe, self.step):
                loss = self.train_step(images, captions)
                last = self.step == recipe.steps
                if self.step % LOG_EVERY_STEPS == 0 or last:
                    self._log(step=self.step, loss=loss, lr=recipe.lr_at(self.step - 1))
                if last or _due(self.step, recipe.sample_every):
                    score = sampler(self.ema.tensors, self.step).overall.accuracy
                    self._log(step=self.step, score=score)
                if last or _due(self.step, recipe.checkpoint_every):
                    self._save()
                progress.update(self.step, loss=loss, score=score)
        return checkpoints(self.folder)[-1]

    def train_step(self, images: Tensor, captions: list[str]) -> float:
        """One optimizer step.

        Args:
            images: uint8 [B, H, W, 3].
            captions: B texts.

        Returns:
            the loss before the update.
        """
        recipe = self.recipe
        generator = torch.Generator().manual_seed(_draw_seed(recipe.seed, self.step))
        pictures = to_network_range(images)
        context, mask = self.text(captions)
        mask = drop_captions(mask, recipe.label_drop, generator)
        t = draw_times(len(captions), generator)
        noise = torch.randn(pictures.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            loss = flow_matching_loss(
                self.forward, pictures, context, mask, t, noise, a_min=recipe.a_min
            )
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"step {self.step}: the loss is {value}; the last checkpoint in {self.folder} "
                "stands, continue from it with a lower lr"
            )
        loss.backward()
        if recipe.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), recipe.grad_clip)
        self.optimizers.step(recipe.lr_at(self.step))
        self.step += 1
        self.ema.update(self.parameters, self.step)
        return value

    def _save(self) -> None:
        weights = {name: value.detach() for name, value in self.parameters.items()}
        state = self.optimizers.state_dict()
        save_checkpoint(self.folder, self.step, self.recipe, weights, self.ema.tensors, state)

    def _log(self, **values: float) -> None:
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _draw_seed(seed: int, step: int) -> int:
    return ((DRAW_STREAM << 56) ^ (seed << 32) ^ step) & (2**63 - 1)
