"""Flow matching as an objective: how a base model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.initial_weights import (
    copy_weights,
    initialize_weights,
    load_starting_weights,
)
from minit2i_deploy.training.objectives.flow_matching_loss import flow_matching_loss
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import draw_step
from minit2i_deploy.training.recipe.recipe import Recipe

# (noisy images, context, mask) -> target x0 of the network at each.
TargetFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


class FlowMatching:
    """The reported loss is the minimized one.

    Args:
        recipe: of the run.
        device: where the network computes.
    """

    teacher_sha256: str | None = None
    base_sha256: str | None = None

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device

    @property
    def image_flops(self) -> float:
        # A backward pass is two forward ones.
        return 3.0 * (denoiser_flops(self.recipe.model) + adapter_flops(self.recipe.model))

    def initialize(self, net: MMJiT) -> None:
        """Fresh weights, or those of the recipe's ``start_from``."""
        if not self.recipe.start_from:
            initialize_weights(net, self.recipe.seed)
            return
        copy_weights(net, load_starting_weights(self.recipe))

    def deployable_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return weights

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        draws = draw_step(self.recipe, step, batch.mask, batch.positions)
        values = (batch.images, batch.context, draws.mask, draws.t, draws.noise)
        images, *rest = (value.to(self.device) for value in values)
        loss = flow_matching_loss(
            net,
            images,
            *rest,
            a_min=self.recipe.a_min,
            target=self._target(images, batch.captions),
        )
        return loss, loss.detach()

    def _target(self, images: Tensor, captions: Sequence[str]) -> TargetFunction | None:
        """The network's target at each image; None for the image itself."""
        return None
