"""Flow matching as an objective: how a base model is trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.draws import draw_step
from minit2i_deploy.training.initialise import initialise
from minit2i_deploy.training.loss import flow_matching_loss
from minit2i_deploy.training.objective import Batch
from minit2i_deploy.training.recipe import Recipe


class FlowMatching:
    """The loss is reported as it is."""

    teacher_sha256 = None

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.predict: Callable[..., Tensor] = _predict
        if recipe.compile:
            self.predict = torch.compile(_predict, dynamic=False)

    def fill(self, net: MMJiT) -> None:
        initialise(net, self.recipe.seed)

    def loss(self, net: MMJiT, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        draws = draw_step(self.recipe, step, batch.mask)
        values = (batch.images, batch.context, draws.mask, draws.t, draws.noise)
        loss = flow_matching_loss(
            partial(self.predict, net),
            *(value.to(self.device) for value in values),
            a_min=self.recipe.a_min,
        )
        return loss, loss.detach()


def _predict(net: MMJiT, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
    return net(x, context, mask)
