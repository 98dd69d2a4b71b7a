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
from minit2i_deploy.training.distributed.batch_memory import check_batch
from minit2i_deploy.training.distributed.freed_memory import keep_freed_memory
from minit2i_deploy.training.distributed.parallel import cut_like, kept_back, spread, whole
from minit2i_deploy.training.distributed.processes import Processes
from minit2i_deploy.training.lora.objective import LoraFlowMatching
from minit2i_deploy.training.objectives.flow_matching import FlowMatching
from minit2i_deploy.training.objectives.mean_flow import MeanFlow
from minit2i_deploy.training.objectives.objective import Batch, Objective
from minit2i_deploy.training.objectives.trajectory_matching import TrajectoryMatching
from minit2i_deploy.training.optim.ema import EMA, ema_decay_at
from minit2i_deploy.training.optim.optimizers import Optimizers
from minit2i_deploy.training.optim.trainable import freeze_unread, trained_parameters
from minit2i_deploy.training.recipe.recipe import Recipe


class Learner:
    """What learns, apart from where its data comes from and where it is kept.

    Every process of a run makes one of these and calls the same methods in the same order.

    Args:
        recipe: network, objective, optimizer and device.
        name: of the run, for messages.

    Raises:
        TrainingError: the teacher or the base is another network, or the device is not there.
        CheckpointError: the teacher, the base, or what the run starts from, cannot be read.
        UsageError: the batch cannot be cut into equal parts for the processes, or not be held.
    """

    def __init__(self, recipe: Recipe, name: str) -> None:
        self.recipe, self.name = recipe, name
        self.processes = Processes(recipe.device)
        self.device = self.processes.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.rows = self.processes.rows(recipe.batch, recipe.accumulate)
        check_batch(recipe, len(self.rows))
        self.objective = _objective(recipe, self.device)
        self.net = MMJiT(recipe.model)
        self.objective.fill(self.net)
        freeze_unread(self.net)
        self.module = spread(self.net, recipe, self.processes)
        self.parameters = trained_parameters(self.net)
        self.ema = EMA(self.parameters)
        self.optimizers = Optimizers(self.parameters, recipe)
        self.step = 0

    def learn(self, batches: Iterable[Batch]) -> float:
        """One optimizer step.

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
            with contextlib.nullcontext() if i == count else kept_back(self.module):
                loss, reported = self._loss(batch)
                (loss / count).backward()
            total += reported / count
        value = self._finite("loss", self.processes.mean(total))
        self._finite("gradient's norm", self._clipped_norm())
        self.optimizers.step(recipe.lr_at(self.step))
        self.step += 1
        self.ema.update(self.parameters, ema_decay_at(recipe, self.step))
        return value

    def state(self) -> TrainingState:
        """Everything that a step changes, whole and on the CPU; empty in all processes but the
        first. Every process must call it."""
        return TrainingState(
            step=self.step,
            model=self.gathered(self.parameters),
            ema=self.gathered(self.ema.tensors),
            optimizer=self.optimizers.state_dict(self._first_only),
            teacher_sha256=self.objective.teacher_sha256,
            base_sha256=self.objective.base_sha256,
        )

    def load(self, state: TrainingState) -> None:
        """Continue from ``state``'s form, from however many processes it came.

        Raises:
            KeyError, RuntimeError, ValueError: it is of another network or optimizer.
        """
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(cut_like(state.model[name], value))
        self.ema.load(state.ema)
        self.optimizers.load_state_dict(state.optimizer)
        self.step = state.step

    def deployed(self) -> Mapping[str, Tensor]:
        """A whole network's weights from the average, empty in all processes but the first.

        Every process must call it.
        """
        weights = self.gathered(self.ema.tensors)
        return self.objective.deployed(weights) if weights else {}

    def gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole and on the CPU in the first process, nothing in the others."""
        found = {name: self._first_only(value.detach()) for name, value in tensors.items()}
        return found if self.processes.is_first else {}

    def _first_only(self, value: Tensor) -> Tensor:
        """One tensor at a time, so that no process holds the whole of a sharded state at once."""
        full = whole(value)
        return full.cpu() if self.processes.is_first else torch.empty(0)

    def _clipped_norm(self) -> Tensor:
        """Norm of the whole gradient, before it is clipped."""
        parameters = [value for value in self.net.parameters() if value.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.recipe.grad_clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.recipe.grad_clip, norm)
        return whole(norm)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        half = self.recipe.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.objective.loss(self.module, batch, self.step)

    def _finite(self, name: str, value: Tensor) -> float:
        number = float(value)
        if not math.isfinite(number):
            raise TrainingError(
                f"{self.name}: the {name} of step {self.step + 1} is {number}; the last "
                "checkpoint stands, continue from it with a lower lr"
            )
        return number


def _objective(recipe: Recipe, device: torch.device) -> Objective:
    if recipe.lora is not None:
        return LoraFlowMatching(recipe, device)
    if recipe.distill is None:
        return FlowMatching(recipe, device)
    kind = TrajectoryMatching if recipe.distill.teacher_rows else MeanFlow
    return kind(recipe, device)
