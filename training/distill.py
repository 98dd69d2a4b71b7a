"""Mean Flow distillation as an objective: how a few-step student is trained."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import TrainingError
from minit2i_deploy.model.build import build_network
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.draws import draw_seed
from minit2i_deploy.training.initialise import initialise
from minit2i_deploy.training.loss import drop_captions
from minit2i_deploy.training.mean_flow import (
    draw_told,
    mean_flow_loss,
    mean_velocity,
    noisy,
    teacher_velocity,
    velocity_rate,
)
from minit2i_deploy.training.objective import Batch
from minit2i_deploy.training.recipe import Recipe


class MeanFlow:
    """The mean square is reported, because the adaptive weight keeps the loss itself at 1.

    Args:
        recipe: with ``distill`` set.
        device: where the networks compute.

    Raises:
        CheckpointError: the teacher cannot be read.
        TrainingError: the teacher is another network than the recipe's without the student.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        assert recipe.distill is not None, "a recipe with distill is needed here"
        self.recipe, self.distill, self.device = recipe, recipe.distill, device
        checkpoint = load_checkpoint(recipe.distill.teacher_folder)
        _check_teacher(recipe, checkpoint.config)
        self.teacher_sha256 = checkpoint.report.sha256
        self.teacher = build_network(checkpoint).to(device)
        self.target: Callable[..., Tensor] = teacher_velocity
        self.u: Callable[..., Tensor] = mean_velocity
        # Not compiled: a fifth of a step's time, and minutes to compile.
        self.rate: Callable[..., Tensor] = velocity_rate
        if recipe.compile:
            self.target = torch.compile(teacher_velocity, dynamic=False)
            self.u = torch.compile(mean_velocity, dynamic=False)

    def fill(self, net: MMJiT) -> None:
        """The teacher's weights, and fresh ones for what a student has on top of them."""
        initialise(net, self.recipe.seed)
        own = net.canonical_parameters()
        with torch.no_grad():
            for name, value in self.teacher.canonical_parameters().items():
                own[name].copy_(value)

    def loss(self, net: MMJiT, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(draw_seed(self.recipe.seed, step))
        floor = self.recipe.a_min
        num_plain = int(len(batch.mask) * self.distill.plain_share)
        mask = drop_captions(batch.mask, self.recipe.label_drop, generator)
        told = draw_told(
            len(mask),
            generator,
            num_plain=num_plain,
            omega=self.distill.omega,
            t_min=self.distill.t_min,
            t_max=self.distill.t_max,
        ).to(self.device)
        noise = torch.randn(batch.images.shape, generator=generator)
        values = (batch.images, noise, batch.context, mask)
        images, noise, context, mask = (value.to(self.device) for value in values)
        z = noisy(images, noise, told.t)
        target = self.target(self.teacher, z, context, mask, told, floor)
        u = self.u(net, z, context, mask, told, floor)
        # Where r = t the rate has no weight.
        rate = torch.zeros_like(u)
        if num_plain < len(mask):
            rest = slice(num_plain, None)
            rate[rest] = self.rate(
                net, z[rest], target[rest], context[rest], mask[rest], told.rows(num_plain), floor
            )
        return mean_flow_loss(u, rate, target, told.t - told.r)


def _check_teacher(recipe: Recipe, found: ModelConfig) -> None:
    wanted = recipe.model.to_dict() | {"student": None}
    values = found.to_dict() | {"student": found.student}
    different = sorted(key for key in wanted if wanted[key] != values[key])
    if different:
        key = different[0]
        assert recipe.distill is not None
        raise TrainingError(
            f"{recipe.distill.teacher_folder}: is another network (model.{key} is "
            f"{values[key]!r}, the recipe has {wanted[key]!r}); give the recipe the teacher's model"
        )
