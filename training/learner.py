"""Network, average and optimizer: what one step of training changes, and the step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from minit2i_deploy.errors import TrainingError
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.checkpoint import TrainingState
from minit2i_deploy.training.distributed.memory import check_batch_memory, retain_freed_memory
from minit2i_deploy.training.distributed.parallel import (
    full_tensor,
    no_gradient_sync,
    parallelize,
    shard_like,
)
from minit2i_deploy.training.distributed.precision import resolve_precision
from minit2i_deploy.training.distributed.processes import Processes
from minit2i_deploy.training.lora.flow_matching import LoraFlowMatching
from minit2i_deploy.training.lora.one_pass_guidance import OnePassGuidance
from minit2i_deploy.training.objectives.flow_matching import FlowMatching
from minit2i_deploy.training.objectives.free_flow import FreeFlow
from minit2i_deploy.training.objectives.mean_flow import MeanFlow
from minit2i_deploy.training.objectives.objective import Batch, Objective
from minit2i_deploy.training.objectives.trajectory_matching import TrajectoryMatching
from minit2i_deploy.training.optim.ema import EMA, ema_decay_at
from minit2i_deploy.training.optim.optimizers import Optimizers
from minit2i_deploy.training.optim.trainable_parameters import (
    freeze_unused_parameters,
    trainable_parameters,
)
from minit2i_deploy.training.recipe.recipe import Recipe


class Learner:
    """The state of a run without its data and its folder.

    Every process of a run makes one of these and calls the same methods in the same order.

    Args:
        recipe: network, objective, optimizer and device.
        name: of the run, for messages.

    Raises:
        TrainingError: the teacher or the base is another network, or the device is missing.
        CheckpointError: the teacher, the base, or the starting weights cannot be read.
        UsageError: the batch does not divide into equal parts for the processes, or does not fit
            into memory.
    """

    def __init__(self, recipe: Recipe, name: str) -> None:
        self.processes = Processes(recipe.device)
        self.device = self.processes.device
        recipe = resolve_precision(recipe, self.device)
        self.recipe, self.name = recipe, name
        if self.device.type == "cpu":
            retain_freed_memory()
        self.positions = self.processes.positions(recipe.batch, recipe.accumulate)
        check_batch_memory(recipe, len(self.positions))
        self.objective = _objective(recipe, self.device)
        self.net = MMJiT(recipe.model)
        self.objective.initialize(self.net)
        freeze_unused_parameters(self.net)
        self.module = parallelize(self.net, recipe, self.processes)
        self.parameters = trainable_parameters(self.net)
        self.ema = EMA(self.parameters)
        self.optimizers = Optimizers(self.parameters, recipe)
        self.step = 0

    def update(self, batches: Iterable[Batch]) -> float:
        """Make one optimizer step.

        Args:
            batches: the recipe's ``accumulate`` micro-batches of this process.

        Returns:
            the objective's reported loss over the global batch, before the update.

        Raises:
            TrainingError: the loss or the gradient is not finite; nothing was updated.
        """
        recipe, count = self.recipe, self.recipe.accumulate
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(batches, start=1):
            with contextlib.nullcontext() if i == count else no_gradient_sync(self.module):
                loss, reported = self._loss(batch)
                (loss / count).backward()
            total += reported / count
        value = self._require_finite("loss", self.processes.mean(total))
        self._require_finite("gradient norm", self._clip_gradient())
        self.optimizers.step(recipe.lr_at(self.step))
        self.step += 1
        self.ema.update(self.parameters, ema_decay_at(recipe, self.step))
        return value

    def state(self) -> TrainingState:
        """Everything that a step changes, full tensors on the CPU; empty in all processes but the
        first. Every process must call it."""
        return TrainingState(
            step=self.step,
            model=self.gather(self.parameters),
            ema=self.gather(self.ema.tensors),
            optimizer=self.optimizers.state_dict(self._gather_first),
            teacher_sha256=self.objective.teacher_sha256,
            base_sha256=self.objective.base_sha256,
        )

    def load_state(self, state: TrainingState) -> None:
        """Continue from ``state``'s form, saved by any number of processes.

        Raises:
            KeyError, RuntimeError, ValueError: it is of another network or optimizer.
        """
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(shard_like(state.model[name], value))
        self.ema.load(state.ema)
        self.optimizers.load_state_dict(state.optimizer)
        self.step = state.step

    def deployable_weights(self) -> Mapping[str, Tensor]:
        """A complete network's averaged weights, empty in all processes but the first.

        Every process must call it.
        """
        weights = self.gather(self.ema.tensors)
        return self.objective.deployable_weights(weights) if weights else {}

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors on the CPU in the first process, nothing in the others."""
        full = {name: self._gather_first(value.detach()) for name, value in tensors.items()}
        return full if self.processes.is_first else {}

    def _gather_first(self, value: Tensor) -> Tensor:
        """One tensor at a time, so that no process holds all of a sharded state at once."""
        full = full_tensor(value)
        return full.cpu() if self.processes.is_first else torch.empty(0)

    def _clip_gradient(self) -> Tensor:
        """Clip the gradient in place; its norm before that."""
        parameters = [value for value in self.net.parameters() if value.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.recipe.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.grad_clip, norm)
        return full_tensor(norm)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        use_bf16 = self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=use_bf16):
            return self.objective.loss(self.module, batch, self.step)

    def _require_finite(self, name: str, value: Tensor) -> float:
        number = float(value)
        if not math.isfinite(number):
            raise TrainingError(
                f"{self.name}: the {name} of step {self.step + 1} is {number}; nothing was "
                "updated, continue from the last checkpoint with a lower lr"
            )
        return number


def _objective(recipe: Recipe, device: torch.device) -> Objective:
    if recipe.lora is not None:
        adapters = OnePassGuidance if recipe.lora.learns_guidance else LoraFlowMatching
        return adapters(recipe, device)
    if recipe.distill is None:
        return FlowMatching(recipe, device)
    if recipe.distill.states == "prior":
        return FreeFlow(recipe, device)
    kind = TrajectoryMatching if recipe.distill.teacher_rows else MeanFlow
    return kind(recipe, device)
