"""What the objectives of a few-step student share: a teacher, and a student that begins as it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.objectives.flow_matching_loss import NOISE_SCALE, drop_captions
from minit2i_deploy.training.objectives.mean_flow_loss import GuidanceConditions, draw_guidance
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import draw_noise
from minit2i_deploy.training.objectives.teacher import Teacher
from minit2i_deploy.training.recipe.recipe import Recipe


class Distillation:
    """A frozen teacher and the draws of a step.

    Args:
        recipe: with ``distill`` set.
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

    def initialize(self, net: MMJiT) -> None:
        self.teacher.initialize_student(net)

    def deployable_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return weights

    def _draw_mask(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The batch's mask, [B, L], with those of dropped captions zeroed."""
        keep = drop_captions(torch.ones(self.recipe.batch, 1), self.recipe.label_drop, generator)
        return batch.mask * keep[torch.tensor(batch.positions)].to(batch.mask.dtype)

    def _draw_guidance(self, generator: torch.Generator) -> GuidanceConditions:
        """The guidance conditions of the global batch."""
        distill = self.distill
        return draw_guidance(
            self.recipe.batch,
            generator,
            omega=distill.omega,
            t_min=distill.t_min,
            t_max=distill.t_max,
        )

    def _starts(self, step: int, positions: Sequence[int]) -> Tensor:
        """Start noise of trajectories, float32 [B, 3, H, W], scaled."""
        return NOISE_SCALE * draw_noise(self.recipe, step, positions)

    def _to_device(self, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.to(self.device) for value in values)
