"""The loss of a student that learns from noise alone, on the states that it reaches itself.

Time is the noise level here, as in ``mean_flow_loss``: 1 noise, 0 image. Mean Flow learns at
noised images of a data set, this one only at states that a sampler reaches: it begins at noise, and
the velocity with which the student's state moves must be the teacher's at that state.

Source: Tong et al. 2511.19428 (FreeFlow), the prediction objective; there every step begins at
noise, here also at the student's own states, because a step of n starts there. Their correction by
a second network that learns the student's own images is not part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from minit2i_deploy.training.objectives.mean_flow_loss import (
    GuidanceConditions,
    StepConditions,
    forward_derivative,
    mean_velocity,
    step_conditions,
    teacher_velocity,
)


@torch.no_grad()
def states_of_student(
    student: Callable[..., Tensor],
    noise: Tensor,
    context: Tensor,
    mask: Tensor,
    guidance: GuidanceConditions,
    starts: Tensor,
    equal_steps: int,
    floor: float,
) -> Tensor:
    """Where the student is after some of its equal steps from noise.

    Args:
        student: (x, context, mask, h, omega, t_min, t_max) -> x0.
        noise: float32 [B, 3, H, W], already scaled.
        context: [B, L, width].
        mask: [B, L].
        guidance: each image's conditions.
        starts: int64 [B], steps made, 0 to equal_steps - 1.
        equal_steps: n; step k goes from level 1 - k/n to 1 - (k + 1)/n.
        floor: of the level where it divides.

    Returns:
        float32 [B, 3, H, W], at level 1 - starts/n, without gradient.
    """
    states = noise.clone()
    for step in range(equal_steps - 1):
        index = (starts > step).nonzero().flatten()
        if not len(index):
            break
        level = torch.full_like(guidance.omega[index], 1 - step / equal_steps)
        conditions = step_conditions(guidance.select(index), level, level - 1 / equal_steps)
        u = mean_velocity(student, states[index], context[index], mask[index], conditions, floor)
        states[index] -= u / equal_steps
    return states


def end_derivative(
    student: Callable[..., Tensor],
    z: Tensor,
    context: Tensor,
    mask: Tensor,
    conditions: StepConditions,
    floor: float,
) -> Tensor:
    """du/dr at a fixed state and start, in forward mode, without gradient.

    Args:
        student, z, context, mask, conditions, floor: as ``mean_velocity`` takes them.

    Returns:
        float32 [B, 3, H, W].
    """

    def u(r: Tensor) -> Tensor:
        moved = dataclasses.replace(conditions, r=r)
        return mean_velocity(student, z, context, mask, moved, floor)

    return forward_derivative(u, (conditions.r,), (torch.ones_like(conditions.r),))


def end_velocity(
    teacher: Callable[..., Tensor],
    z: Tensor,
    u: Tensor,
    context: Tensor,
    mask: Tensor,
    conditions: StepConditions,
    floor: float,
) -> Tensor:
    """The teacher's guided velocity where the student's step ends.

    Args:
        teacher: (x, context, mask) -> x0.
        z: float32 [B, 3, H, W], where the step begins.
        u: float32 [B, 3, H, W], the student's mean velocity over it.
        context, mask, floor: as ``teacher_velocity`` takes them.
        conditions: the step; guidance counts by the level of its end.

    Returns:
        float32 [B, 3, H, W], without gradient.
    """
    length = (conditions.t - conditions.r).reshape(-1, 1, 1, 1)
    state = z - length * u.detach()
    at_end = dataclasses.replace(conditions, t=conditions.r)
    return teacher_velocity(teacher, state, context, mask, at_end, floor)
