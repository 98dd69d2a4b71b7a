"""FreeFlow as an objective: a few-step student that is trained from noise, without images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.distributed.parallel import unwrap
from minit2i_deploy.training.objectives.flow_matching_loss import NOISE_SCALE, drop_captions
from minit2i_deploy.training.objectives.free_flow_loss import (
    arrival_velocity,
    end_derivative,
    own_states,
)
from minit2i_deploy.training.objectives.mean_flow_loss import (
    draw_guidance,
    mean_flow_loss,
    mean_velocity,
    step_conditions,
)
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import draw_noise, draw_seed
from minit2i_deploy.training.objectives.teacher import Teacher
from minit2i_deploy.training.recipe.recipe import Recipe


class FreeFlow:
    """The mean square is reported, as for ``MeanFlow``. Of a batch only the captions are used.

    A step of the student begins at one of the recipe's ``sample_steps`` levels and ends anywhere
    before the next, uniformly.

    Args:
        recipe: with ``distill.states`` "prior".
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

    @property
    def image_flops(self) -> float:
        # Two of the teacher, forward and backward of the student (3), its derivative, which carries
        # a tangent beside each value (2), and its way from noise: (n - 1) / 2 steps on average.
        passes = 7.0 + (self.recipe.sample_steps - 1) / 2
        return passes * (denoiser_flops(self.recipe.model) + adapter_flops(self.recipe.model))

    def initialize(self, net: MMJiT) -> None:
        self.teacher.initialize_student(net)

    def deployable_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return weights

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        recipe, distill, steps = self.recipe, self.distill, self.recipe.sample_steps
        generator = torch.Generator().manual_seed(draw_seed(recipe.seed, step))
        index = torch.tensor(batch.positions)
        keep = drop_captions(torch.ones(recipe.batch, 1), recipe.label_drop, generator)
        guidance = draw_guidance(
            recipe.batch,
            generator,
            omega=distill.omega,
            t_min=distill.t_min,
            t_max=distill.t_max,
        )
        place, length = torch.rand(2, recipe.batch, generator=generator)[:, index].to(self.device)
        starts = torch.floor(place * steps).long()
        t = 1 - starts / steps
        # 1 - length is in (0, 1]: whole steps are learned, steps of no length hardly matter.
        r = (t - (1 - length) / steps).clamp(min=0)
        conditions = step_conditions(guidance.select(index).to(self.device), t, r)
        noise = NOISE_SCALE * draw_noise(recipe, step, batch.positions)
        values = (noise, batch.context, batch.mask * keep[index].to(batch.mask.dtype))
        noise, context, mask = (value.to(self.device) for value in values)
        floor = recipe.a_min
        z = own_states(unwrap(net), noise, context, mask, conditions, starts, steps, floor)
        u = mean_velocity(net, z, context, mask, conditions, floor)
        target = arrival_velocity(self.teacher.net, z, u, context, mask, conditions, floor)
        derivative = end_derivative(unwrap(net), z, context, mask, conditions, floor)
        # The state z - (t - r) u moves with u - (t - r) du/dr as r falls.
        return mean_flow_loss(u, -derivative, target, t - r)
