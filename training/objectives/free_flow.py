"""FreeFlow as an objective: a few-step student that is trained from noise, without images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.training.distributed.parallel import unwrap
from minit2i_deploy.training.objectives.distillation import Distillation
from minit2i_deploy.training.objectives.free_flow_loss import (
    end_derivative,
    end_velocity,
    states_of_student,
)
from minit2i_deploy.training.objectives.mean_flow_loss import (
    mean_flow_loss,
    mean_velocity,
    step_conditions,
)
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import draw_seed


class FreeFlow(Distillation):
    """The mean square is reported, as for ``MeanFlow``. Of a batch only the captions are used.

    A step of the student begins at one of the recipe's ``sample_steps`` levels and ends anywhere
    before the next, uniformly.

    Args:
        recipe: with ``distill.states`` "prior".
        device: where the networks compute.

    Raises:
        CheckpointError, TrainingError: as ``Teacher``.
    """

    @property
    def image_flops(self) -> float:
        # Two of the teacher, forward and backward of the student (3), its derivative, which carries
        # a tangent beside each value (2), and its way from noise: (n - 1) / 2 steps on average.
        passes = 7.0 + (self.recipe.sample_steps - 1) / 2
        return passes * (denoiser_flops(self.recipe.model) + adapter_flops(self.recipe.model))

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        steps, floor = self.recipe.sample_steps, self.recipe.a_min
        generator = torch.Generator().manual_seed(draw_seed(self.recipe.seed, step))
        index = torch.tensor(batch.positions)
        mask = self._draw_mask(batch, generator)
        guidance = self._draw_guidance(generator).select(index)
        place, rest = torch.rand(2, self.recipe.batch, generator=generator)[:, index]
        starts = torch.floor(place * steps).long()
        t = 1 - starts / steps
        # 1 - rest is in (0, 1]: complete steps are learned, and none has no length.
        r = (t - (1 - rest) / steps).clamp(min=0)
        conditions = step_conditions(guidance, t, r).to(self.device)
        noise, context, mask, starts = self._to_device(
            self._starts(step, batch.positions), batch.context, mask, starts
        )
        text, student = (context, mask), unwrap(net)
        z = states_of_student(student, noise, *text, conditions, starts, steps, floor)
        u = mean_velocity(net, z, *text, conditions, floor)
        target = end_velocity(self.teacher.net, z, u, *text, conditions, floor)
        derivative = end_derivative(student, z, *text, conditions, floor)
        # The state z - (t - r) u moves with u - (t - r) du/dr as r falls.
        return mean_flow_loss(u, -derivative, target, conditions.t - conditions.r)
