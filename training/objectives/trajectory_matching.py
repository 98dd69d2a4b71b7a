"""Distillation on the teacher's trajectories as an objective: how a student is finished."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.training.objectives.distillation import Distillation
from minit2i_deploy.training.objectives.mean_flow_loss import GuidanceConditions
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import data_step, draw_seed
from minit2i_deploy.training.objectives.trajectory_loss import guided_trajectory, trajectory_loss
from minit2i_deploy.training.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trajectories:
    """Trajectories of the teacher at the ends of the student's steps.

    Args:
        states: float32 [sample_steps + 1, B, 3, H, W], from noise to images.
        context: float32 [B, L, width].
        mask: [B, L], with the mask of dropped captions zeroed.
        conditions: the guidance that the teacher had.
    """

    states: Tensor
    context: Tensor
    mask: Tensor
    conditions: GuidanceConditions

    def to(self, device: torch.device) -> Self:
        """The same trajectories on a device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class TrajectoryMatching(Distillation):
    """The reported loss is the minimized one. Of a batch only the captions are used.

    Trajectories that serve several steps wait on the CPU. They follow from seed and step, so a
    resumed run samples those that it lacks once more.

    Args:
        recipe: with ``distill.teacher_rows`` set.
        device: where the networks compute.

    Raises:
        CheckpointError, TrainingError: as ``Teacher``.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        super().__init__(recipe, device)
        rows = recipe.sample_steps * self.distill.teacher_rows
        # With this floor the last step lands on the network's estimate.
        self.table = solver_table("ab2", steps=rows, a_min=1 / rows)
        # By the step they were drawn in and the position of the first.
        self._pool: dict[tuple[int, int], Trajectories] = {}

    @property
    def image_flops(self) -> float:
        # Forward and backward of the student on every step (3), and the teacher's two branches,
        # where its trajectories are not those of an earlier step.
        steps = sum(self.recipe.sample_steps >> n for n in range(self.distill.halvings + 1))
        adapter, denoiser = adapter_flops(self.recipe.model), denoiser_flops(self.recipe.model)
        sampled = 2.0 * (len(self.table) * denoiser + adapter)
        return 3.0 * steps * (denoiser + adapter) + sampled / self.distill.trajectory_uses

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        some = self._trajectories(batch, step).to(self.device)
        loss = trajectory_loss(
            net,
            some.states,
            some.context,
            some.mask,
            some.conditions,
            self.recipe.a_min,
            halvings=self.distill.halvings,
        )
        return loss, loss.detach()

    def _trajectories(self, batch: Batch, step: int) -> Trajectories:
        """Those of a step, from the pool where they are there."""
        step = data_step(self.recipe, step)
        size = self.distill.pooled_batches
        if not size:
            return self._sample(batch, step)
        # Earlier pools have served.
        pool = step // size
        self._pool = {key: item for key, item in self._pool.items() if key[0] // size == pool}
        key = (step, batch.positions[0])
        if key not in self._pool:
            self._pool[key] = self._sample(batch, step).to(torch.device("cpu"))
        return self._pool[key]

    def _sample(self, batch: Batch, step: int) -> Trajectories:
        generator = torch.Generator().manual_seed(draw_seed(self.recipe.seed, step))
        index = torch.tensor(batch.positions)
        mask = self._draw_mask(batch, generator)
        conditions = self._draw_guidance(generator).select(index).to(self.device)
        noise, context, mask = self._to_device(
            self._starts(step, batch.positions), batch.context, mask
        )
        states, _ = guided_trajectory(
            self.teacher.net, noise, context, mask, conditions, self.table
        )
        # A copy, because a part of the states would keep all of them in memory.
        long_steps = states[:: self.distill.teacher_rows].clone()
        return Trajectories(states=long_steps, context=context, mask=mask, conditions=conditions)
