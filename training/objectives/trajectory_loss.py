"""The loss of a student that is shown where its teacher's own trajectories lead.

Time is the noise level here, as in ``mean_flow``: 1 noise, 0 picture. Where Mean Flow asks for the
derivative of an average velocity, here the average is measured: the teacher walks from noise to
picture in many small steps, and the student is asked for the mean velocity over each long one.

Source: the targets are those of progressive distillation (Salimans and Ho 2202.00512) with all the
teacher's steps of a long one in one go, taken on the teacher's trajectories from noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.training.objectives.mean_flow_loss import Guidance, Told, mean_velocity

# A level on the grid and the same bound in a recipe may differ in the last bits.
_LEVEL_ROUNDING = 1e-6


@torch.no_grad()
def teacher_states(
    teacher: MMJiT,
    noise: Tensor,
    context: Tensor,
    mask: Tensor,
    told: Guidance,
    table: Table,
) -> Tensor:
    """Walk a base model from noise to pictures, each with guidance of its own.

    Args:
        teacher: a base model.
        noise: float32 [B, 3, H, W], start of the trajectories, already scaled.
        context: [B, L, width].
        mask: [B, L].
        told: guidance of each picture; it counts from t_min to t_max, both included.
        table: a deterministic solver's.

    Returns:
        float32 [rows + 1, B, 3, H, W], the noise and the state after each row.
    """
    texts = [teacher.text_adapter(context, m) for m in (mask, torch.zeros_like(mask))]
    level = torch.from_numpy(1.0 - table.column("t")).to(noise)[:, None]
    inside = (told.t_min <= level + _LEVEL_ROUNDING) & (level <= told.t_max + _LEVEL_ROUNDING)
    omega = torch.where(inside, told.omega, 1.0)
    # Asked once, because every answer waits for the device.
    guided = (omega != 1).any(1).tolist()
    x, h = noise, torch.zeros_like(noise)
    states = [x]
    for row in table.steps():
        branches = 1 + guided[row.index]
        x0 = teacher.denoiser(torch.cat([x] * branches), torch.cat(texts[:branches]))
        given, *free = x0.to(torch.float32).chunk(branches)
        g = omega[row.index].reshape(-1, 1, 1, 1)
        y = g * given + (1 - g) * free[0] if free else given
        a, b, c, s, *_ = row.values.tolist()
        x, h = a * x + b * y + c * h, y + s * x
        states.append(x)
    return torch.stack(states)


def trajectory_loss(
    student: Callable[..., Tensor],
    states: Tensor,
    context: Tensor,
    mask: Tensor,
    told: Guidance,
    floor: float,
) -> Tensor:
    """Mean squared distance of the student's mean velocity from the trajectories' own.

    All steps are n equal ones, so this is also n * n times that of the states they lead to.

    Args:
        student: as ``mean_velocity`` takes it.
        states: float32 [n + 1, B, 3, H, W], at noise levels 1, (n - 1)/n, .., 0.
        context: [B, L, width].
        mask: [B, L].
        told: what the student is told of guidance.
        floor: of the noise level where it divides.

    Returns:
        scalar float32.
    """
    n, batch = len(states) - 1, states.shape[1]
    ends = torch.arange(n - 1, -1, -1, device=states.device).repeat_interleave(batch) / n
    again = {name: getattr(told, name).repeat(n) for name in ("omega", "t_min", "t_max")}
    steps = Told(t=ends + 1 / n, r=ends, **again)
    before, after = states[:-1].flatten(0, 1), states[1:].flatten(0, 1)
    context, mask = context.repeat(n, 1, 1), mask.repeat(n, 1)
    u = mean_velocity(student, before, context, mask, steps, floor)
    return (u - (before - after) * n).square().mean()
