"""Distillation on the teacher's trajectories as an objective: how a student is finished."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.training.objectives.flow_matching_loss import NOISE_SCALE, drop_captions
from minit2i_deploy.training.objectives.mean_flow_loss import GuidanceConditions, draw_guidance
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import draw_noise, draw_seed
from minit2i_deploy.training.objectives.teacher import Teacher
from minit2i_deploy.training.objectives.trajectory_loss import guided_trajectory, trajectory_loss
from minit2i_deploy.training.recipe.recipe import Recipe


class TrajectoryMatching:
    """The reported loss is the minimized one. Of a batch only the captions are used.

    Args:
        recipe: with ``distill.teacher_rows`` set.
        device: where the networks compute.

    Raises:
        CheckpointError, TrainingError: as ``Teacher``.
    """

    base_sha256 = None

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.distill is not None, "the recipe has no distill"
        self.recipe, self.distill, self.device = recipe, recipe.distill, device
        self.teacher = Teacher(recipe, device)
        self.teacher_sha256 = self.teacher.sha256
        rows = recipe.sample_steps * recipe.distill.teacher_rows
        # With this floor the last step lands on the network's estimate.
        self.table = solver_table("ab2", steps=rows, a_min=1 / rows)

    @property
    def image_flops(self) -> float:
        # Forward and backward of the student on every step (3), and the teacher's two branches.
        steps = self.recipe.sample_steps
        adapter, denoiser = adapter_flops(self.recipe.model), denoiser_flops(self.recipe.model)
        return 3.0 * steps * (denoiser + adapter) + 2.0 * (len(self.table) * denoiser + adapter)

    def initialize(self, net: MMJiT) -> None:
        self.teacher.initialize_student(net)

    def deployable_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return weights

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        generator = torch.Generator().manual_seed(draw_seed(recipe.seed, step))
        index = torch.tensor(batch.positions)
        keep = drop_captions(torch.ones(recipe.batch, 1), recipe.label_drop, generator)
        conditions = self._draw_guidance(generator).select(index).to(self.device)
        noise = NOISE_SCALE * draw_noise(recipe, step, batch.positions)
        values = (noise, batch.context, batch.mask * keep[index].to(batch.mask.dtype))
        noise, context, mask = (value.to(self.device) for value in values)
        states, _ = guided_trajectory(
            self.teacher.net, noise, context, mask, conditions, self.table
        )
        long_steps = states[:: self.distill.teacher_rows]
        loss = trajectory_loss(net, long_steps, context, mask, conditions, recipe.a_min)
        return loss, loss.detach()

    def _draw_guidance(self, generator: torch.Generator) -> GuidanceConditions:
        return draw_guidance(
            self.recipe.batch,
            generator,
            omega=self.distill.omega,
            t_min=self.distill.t_min,
            t_max=self.distill.t_max,
        )
