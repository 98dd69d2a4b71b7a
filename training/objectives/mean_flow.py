"""Mean Flow distillation as an objective: how a few-step student is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.distributed.parallel import bare
from minit2i_deploy.training.objectives.draws import draw_noise, draw_seed
from minit2i_deploy.training.objectives.flow_matching_loss import drop_captions
from minit2i_deploy.training.objectives.mean_flow_loss import (
    draw_told,
    mean_flow_loss,
    mean_velocity,
    noisy,
    teacher_velocity,
    velocity_rate,
)
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.teacher import Teacher
from minit2i_deploy.training.recipe.recipe import Recipe


class MeanFlow:
    """The mean square is reported, because the adaptive weight keeps the loss itself at 1.

    Args:
        recipe: with ``distill`` set.
        device: where the networks compute.

    Raises:
        CheckpointError, TrainingError: as ``Teacher``.
    """

    base_sha256 = None

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.distill is not None, "a recipe with distill is needed here"
        self.recipe, self.distill, self.device = recipe, recipe.distill, device
        self.teacher = Teacher(recipe, device)
        self.teacher_sha256 = self.teacher.sha256

    @property
    def picture_flops(self) -> float:
        # Two of the teacher, forward and backward of the student (3), and the derivative of those
        # pictures that have one, which carries a tangent beside each value (2).
        passes = 5.0 + 2.0 * (1 - self.distill.plain_share)
        return passes * (denoiser_flops(self.recipe.model) + adapter_flops(self.recipe.model))

    def fill(self, net: MMJiT) -> None:
        self.teacher.fill(net)

    def deployed(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return weights

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(draw_seed(self.recipe.seed, step))
        floor, size = self.recipe.a_min, self.recipe.batch
        # The first ones, so that every process has as many of them.
        plain = torch.arange(size) < int(size * self.distill.plain_share)
        places = torch.tensor(batch.rows)
        kept = drop_captions(torch.ones(size, 1), self.recipe.label_drop, generator)[places]
        told = draw_told(
            size,
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
        told = told.at(places).to(self.device)
        noise = draw_noise(self.recipe, step, batch.rows)
        values = (batch.images, noise, batch.context, batch.mask * kept.to(batch.mask.dtype))
        images, noise, context, mask = (value.to(self.device) for value in values)
        z = noisy(images, noise, told.t)
        target = teacher_velocity(self.teacher.net, z, context, mask, told, floor)
        u = mean_velocity(net, z, context, mask, told, floor)
        # Where r = t the rate has no weight.
        rate = torch.zeros_like(u)
        rest = (~plain[places]).nonzero().flatten().to(self.device)
        if len(rest):
            rate[rest] = velocity_rate(
                bare(net), z[rest], target[rest], context[rest], mask[rest], told.at(rest), floor
            )
        return mean_flow_loss(u, rate, target, told.t - told.r)
