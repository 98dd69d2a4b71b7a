"""Guidance in one pass as an objective: an adapter learns the guided estimate in one branch.

The base, frozen, samples the data's captions with guidance. At every state of these trajectories
both of its branches are evaluated anyway, so the guided estimate is a target without further cost
and no image is needed. The adapted network has to give it from the conditional branch alone.

Source: Adapter Guidance Distillation, 2503.07274 (an adapter instead of a copy of the network, and
trajectories that are guided, since these are what the adapted network will run on).
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from minit2i_deploy.checkpoints import Checkpoint
from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.build import build_network
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.training.distributed.parallel import compile_blocks
from minit2i_deploy.training.lora.flow_matching import LoraFlowMatching, pair_flops
from minit2i_deploy.training.objectives.flow_matching_loss import NOISE_SCALE
from minit2i_deploy.training.objectives.mean_flow_loss import GuidanceConditions
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import draw_noise, draw_seed
from minit2i_deploy.training.objectives.trajectory_loss import guided_trajectory

# The network never sees the time, and a table of any grid may ask for an estimate anywhere: from
# step to step the grid's shift moves every state but the first over the gap to its neighbours.
SHIFTS: Final = (0.6, 3.0)


class OnePassGuidance(LoraFlowMatching):
    """The reported loss is the minimized one. Of a batch only the captions are used.

    A batch counts trajectories; each has ``lora.trajectory_rows`` states to learn.

    Args:
        recipe: with ``lora.guidance`` above 1.
        device: where the networks compute.

    Raises:
        CheckpointError, TrainingError: as ``LoraFlowMatching``.
    """

    def _use_base(self, base: Checkpoint) -> None:
        super()._use_base(base)
        self.base = build_network(base).to(self.device)
        if self.recipe.compile:
            compile_blocks(self.base)

    @property
    def image_flops(self) -> float:
        # Two branches of the base, then the adapted network forward and its gradients back (2),
        # and a pair's own three.
        model, rows = self.recipe.model, self.lora.trajectory_rows
        adapter, denoiser = adapter_flops(model), denoiser_flops(model)
        pairs = 3.0 * pair_flops(model, self.targets, self.lora.rank)
        return 2.0 * (rows * denoiser + adapter) + rows * (2.0 * (denoiser + adapter) + pairs)

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        self._seed_dropout(batch, step)
        table = self._table(step)
        noise = NOISE_SCALE * draw_noise(self.recipe, step, batch.positions)
        values = (noise, batch.context, batch.mask)
        noise, context, mask = (value.to(self.device) for value in values)
        scale = torch.full((len(noise),), self.lora.guidance, device=self.device)
        conditions = GuidanceConditions(
            omega=scale, t_min=torch.zeros_like(scale), t_max=torch.ones_like(scale)
        )
        states, estimates = guided_trajectory(self.base, noise, context, mask, conditions, table)
        loss = one_pass_loss(net, states[:-1], estimates, context, mask, table, self.recipe.a_min)
        return loss, loss.detach()

    def _table(self, step: int) -> Table:
        generator = torch.Generator().manual_seed(draw_seed(self.recipe.seed, step))
        low, high = map(math.log, SHIFTS)
        position = float(torch.rand((), generator=generator))
        rows = self.lora.trajectory_rows
        return solver_table(
            "ab2",
            steps=rows,
            grid="shifted",
            shift=math.exp(low + (high - low) * position),
            a_min=1 / rows,
        )


def one_pass_loss(
    net: nn.Module,
    states: Tensor,
    estimates: Tensor,
    context: Tensor,
    mask: Tensor,
    table: Table,
    floor: float,
) -> Tensor:
    """Mean squared difference of the velocities of one branch and of the guided estimate.

    Args:
        net: (x, context, mask) -> x0, one branch.
        states: float32 [n, B, 3, H, W], where the rows of the table evaluate.
        estimates: float32 [n, B, 3, H, W], the guided x0 there.
        context: [B, L, width].
        mask: [B, L].
        table: gives the rows' times, 0 noise to 1 image.
        floor: of 1 - t where it divides.

    Returns:
        scalar float32.
    """
    n = len(states)
    x0 = net(states.flatten(0, 1), context.repeat(n, 1, 1), mask.repeat(n, 1)).to(torch.float32)
    remaining = torch.from_numpy(1.0 - table.column("t")).to(estimates).clamp(min=floor)
    error = (x0.reshape(estimates.shape) - estimates) / remaining.reshape(-1, 1, 1, 1, 1)
    return error.square().mean()
