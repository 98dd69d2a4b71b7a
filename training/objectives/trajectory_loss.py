"""The loss of a student that learns the mean velocities of its teacher's own trajectories.

Time is the noise level here, as in ``mean_flow``: 1 noise, 0 image. Where Mean Flow needs the
derivative of an average velocity, here the average is measured: the teacher samples from noise to
image in many small steps, and the student's target is the mean velocity over each long one.

Source: the targets are those of progressive distillation (Salimans and Ho 2202.00512) with all the
teacher's steps of a long one at once, taken on the teacher's trajectories from noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.training.objectives.mean_flow_loss import (
    GuidanceConditions,
    mean_velocity,
    step_conditions,
)

# A level on the grid and the same bound in a recipe may differ in the last bits.
_LEVEL_ROUNDING = 1e-6


@torch.no_grad()
def guided_trajectory(
    net: MMJiT,
    noise: Tensor,
    context: Tensor,
    mask: Tensor,
    conditions: GuidanceConditions,
    table: Table,
) -> tuple[Tensor, Tensor]:
    """Sample a base model from noise to images, each with its own guidance.

    Args:
        net: a base model.
        noise: float32 [B, 3, H, W], start of the trajectories, already scaled.
        context: [B, L, width].
        mask: [B, L].
        conditions: guidance of each image; it applies from t_min to t_max, both included.
        table: a deterministic solver's.

    Returns:
        states: float32 [rows + 1, B, 3, H, W], the noise and the state after each row.
        estimates: float32 [rows, B, 3, H, W], each row's guided x0.
    """
    texts = [net.text_adapter(context, m) for m in (mask, torch.zeros_like(mask))]
    level = torch.from_numpy(1.0 - table.column("t")).to(noise)[:, None]
    after_start = level <= conditions.t_max + _LEVEL_ROUNDING
    inside = (conditions.t_min <= level + _LEVEL_ROUNDING) & after_start
    omega = torch.where(inside, conditions.omega, 1.0)
    # Read once for all rows, because every read waits for the device.
    is_guided = (omega != 1).any(1).tolist()
    x, h = noise, torch.zeros_like(noise)
    states, estimates = [x], []
    for row in table.steps():
        branches = 1 + is_guided[row.index]
        x0 = net.denoiser(torch.cat([x] * branches), torch.cat(texts[:branches]))
        cond, *uncond = x0.to(torch.float32).chunk(branches)
        g = omega[row.index].reshape(-1, 1, 1, 1)
        y = g * cond + (1 - g) * uncond[0] if uncond else cond
        a, b, c, s, *_ = row.values.tolist()
        x, h = a * x + b * y + c * h, y + s * x
        states.append(x)
        estimates.append(y)
    return torch.stack(states), torch.stack(estimates)


def trajectory_loss(
    student: Callable[..., Tensor],
    states: Tensor,
    context: Tensor,
    mask: Tensor,
    conditions: GuidanceConditions,
    floor: float,
    *,
    halvings: int = 0,
) -> Tensor:
    """Mean squared distance of the student's mean velocity from the trajectories' own.

    Without halvings all steps are n equal ones, so this is also n * n times that of the states they
    lead to.

    Args:
        student: as ``mean_velocity`` takes it.
        states: float32 [n + 1, B, 3, H, W], at noise levels 1, (n - 1)/n, .., 0.
        context: [B, L, width].
        mask: [B, L].
        conditions: the student's guidance conditions.
        floor: of the noise level where it divides.
        halvings: the steps are also those of n/2, n/4, .. equal ones, so many times; n must be a
            multiple of 2 ** halvings.

    Returns:
        scalar float32, the mean over all steps of all lengths.
    """
    n, batch = len(states) - 1, states.shape[1]
    strides = [2**power for power in range(halvings + 1)]
    first = [index for stride in strides for index in range(0, n, stride)]
    length = [stride for stride in strides for _ in range(0, n, stride)]
    begin, stride = (torch.tensor(values, device=states.device) for values in (first, length))
    before, after = states[begin].flatten(0, 1), states[begin + stride].flatten(0, 1)
    starts, lengths = ((value / n).repeat_interleave(batch) for value in (n - begin, stride))
    steps = step_conditions(conditions.repeat(len(first)), starts, starts - lengths)
    context, mask = context.repeat(len(first), 1, 1), mask.repeat(len(first), 1)
    u = mean_velocity(student, before, context, mask, steps, floor)
    return (u - (before - after) / lengths.reshape(-1, 1, 1, 1)).square().mean()
