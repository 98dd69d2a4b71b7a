"""Mean Flow distillation as an objective: how a few-step student is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.training.distributed.parallel import unwrap
from minit2i_deploy.training.objectives.distillation import Distillation
from minit2i_deploy.training.objectives.mean_flow_loss import (
    StepConditions,
    add_noise,
    draw_conditions,
    mean_flow_loss,
    mean_velocity,
    step_conditions,
    teacher_velocity,
    velocity_derivative,
)
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import draw_noise, draw_seed


class MeanFlow(Distillation):
    """The mean square is reported, because the adaptive weight keeps the loss itself at 1.

    Args:
        recipe: with ``distill`` set.
        device: where the networks compute.

    Raises:
        CheckpointError, TrainingError: as ``Teacher``.
    """

    @property
    def image_flops(self) -> float:
        # Two of the teacher, forward and backward of the student (3), and for images with r < t
        # the derivative, which carries a tangent beside each value (2).
        passes = 5.0 + 2.0 * (1 - self.distill.plain_share)
        return passes * (denoiser_flops(self.recipe.model) + adapter_flops(self.recipe.model))

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(draw_seed(self.recipe.seed, step))
        floor = self.recipe.a_min
        index = torch.tensor(batch.positions)
        mask = self._draw_mask(batch, generator)
        plain = self._plain_images()
        conditions = self._draw_conditions(plain, generator).select(index).to(self.device)
        images, noise, context, mask = self._to_device(
            batch.images, draw_noise(self.recipe, step, batch.positions), batch.context, mask
        )
        z = add_noise(images, noise, conditions.t)
        target = teacher_velocity(self.teacher.net, z, context, mask, conditions, floor)
        u = mean_velocity(net, z, context, mask, conditions, floor)
        direction = target
        if self.distill.tangent == "student":
            with torch.no_grad():
                at_once = step_conditions(conditions, conditions.t, conditions.t)
                direction = mean_velocity(net, z, context, mask, at_once, floor)
        # Where r = t the derivative has no weight in the loss.
        derivative = torch.zeros_like(u)
        rest = (~plain[index]).nonzero().flatten().to(self.device)
        if len(rest):
            derivative[rest] = velocity_derivative(
                unwrap(net),
                z[rest],
                direction[rest],
                context[rest],
                mask[rest],
                conditions.select(rest),
                floor,
            )
        return mean_flow_loss(u, derivative, target, conditions.t - conditions.r)

    def _plain_images(self) -> Tensor:
        """Which images of the global batch have r = t, bool [batch]."""
        size = self.recipe.batch
        # The first ones, so that every process has as many of them.
        return torch.arange(size) < int(size * self.distill.plain_share)

    def _draw_conditions(self, plain: Tensor, generator: torch.Generator) -> StepConditions:
        return draw_conditions(
            self.recipe.batch,
            generator,
            plain=plain,
            level=(self.distill.level_mean, self.distill.level_std),
            longest_step=self.distill.longest_step,
            equal_steps=self.recipe.sample_steps,
            equal_share=self.distill.equal_share,
            omega=self.distill.omega,
            t_min=self.distill.t_min,
            t_max=self.distill.t_max,
        )
