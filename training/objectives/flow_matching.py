"""Flow matching as an objective: how a base model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.initialize import initialise
from minit2i_deploy.training.objectives.draws import draw_step
from minit2i_deploy.training.objectives.flow_matching_loss import flow_matching_loss
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.starting_weights import copy_weights, weights_of

# (noisy pictures, context, mask) -> the x0 that the network is to give at each.
Wanted = Callable[[Tensor, Tensor, Tensor], Tensor]


class FlowMatching:
    """The loss is reported as it is."""

    teacher_sha256: str | None = None
    base_sha256: str | None = None

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device

    @property
    def picture_flops(self) -> float:
        # A backward pass is two forward ones.
        return 3.0 * (denoiser_flops(self.recipe.model) + adapter_flops(self.recipe.model))

    def fill(self, net: MMJiT) -> None:
        """Fresh weights, or those of the recipe's ``start_from``."""
        if not self.recipe.start_from:
            initialise(net, self.recipe.seed)
            return
        copy_weights(net, weights_of(self.recipe))

    def deployed(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return weights

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        draws = draw_step(self.recipe, step, batch.mask, batch.rows)
        values = (batch.images, batch.context, draws.mask, draws.t, draws.noise)
        images, *rest = (value.to(self.device) for value in values)
        loss = flow_matching_loss(
            net,
            images,
            *rest,
            a_min=self.recipe.a_min,
            wanted=self._wanted(images, batch.captions),
        )
        return loss, loss.detach()

    def _wanted(self, images: Tensor, captions: Sequence[str]) -> Wanted | None:
        """What the network is to give at each picture: None for the picture itself."""
        return None
