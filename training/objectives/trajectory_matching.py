"""Distillation on the teacher's trajectories as an objective: how a student is finished."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.training.objectives.distillation import Distillation
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import draw_seed
from minit2i_deploy.training.objectives.trajectory_loss import guided_trajectory, trajectory_loss
from minit2i_deploy.training.recipe.recipe import Recipe


class TrajectoryMatching(Distillation):
    """The reported loss is the minimized one. Of a batch only the captions are used.

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

    @property
    def image_flops(self) -> float:
        # Forward and backward of the student on every step (3), and the teacher's two branches.
        steps = sum(self.recipe.sample_steps >> n for n in range(self.distill.halvings + 1))
        adapter, denoiser = adapter_flops(self.recipe.model), denoiser_flops(self.recipe.model)
        return 3.0 * steps * (denoiser + adapter) + 2.0 * (len(self.table) * denoiser + adapter)

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        generator = torch.Generator().manual_seed(draw_seed(recipe.seed, step))
        index = torch.tensor(batch.positions)
        mask = self._draw_mask(batch, generator)
        conditions = self._draw_guidance(generator).select(index).to(self.device)
        noise, context, mask = self._to_device(
            self._starts(step, batch.positions), batch.context, mask
        )
        states, _ = guided_trajectory(
            self.teacher.net, noise, context, mask, conditions, self.table
        )
        long_steps = states[:: self.distill.teacher_rows]
        loss = trajectory_loss(
            net,
            long_steps,
            context,
            mask,
            conditions,
            recipe.a_min,
            halvings=self.distill.halvings,
        )
        return loss, loss.detach()
