"""The Mean Flow distillation loss. Time is the noise level here: 1 noise, 0 image.

Source: minit2i-jax, branch mean_flow_distill, class PixelMeanFlow; Geng et al. 2505.13447.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from minit2i_deploy.training.objectives.flow_matching_loss import NOISE_SCALE

LEVEL_FLOOR = 0.05
WEIGHT_EPS = 0.01

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GuidanceConditions:
    """A student's guidance conditions; float32 [B] each.

    Args:
        omega: guidance scale, 1 or more.
        t_min: noise level where guidance ends.
        t_max: noise level where guidance begins, at least t_min.
    """

    omega: Tensor
    t_min: Tensor
    t_max: Tensor

    def to(self, device: torch.device) -> Self:
        """The same conditions on a device."""
        return self._map(lambda value: value.to(device))

    def select(self, index: Tensor | slice) -> Self:
        """The conditions of some of the images."""
        return self._map(lambda value: value[index])

    def repeat(self, times: int) -> Self:
        """The conditions of all images, so many times one after the other."""
        return self._map(lambda value: value.repeat(times))

    def _map(self, transform: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{f.name: transform(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepConditions(GuidanceConditions):
    """A student's conditions of each image's step; float32 [B] each.

    Args:
        t: noise level where the step begins, 0 image to 1 noise.
        r: noise level where it ends, at most t; r = t requests the velocity itself.
    """

    t: Tensor
    r: Tensor


def step_conditions(guidance: GuidanceConditions, t: Tensor, r: Tensor) -> StepConditions:
    """The conditions of steps from level t to r, float32 [B] each, under given guidance."""
    return StepConditions(
        t=t, r=r, omega=guidance.omega, t_min=guidance.t_min, t_max=guidance.t_max
    )


def draw_guidance(
    batch: int, generator: torch.Generator, *, omega: Range, t_min: Range, t_max: Range
) -> GuidanceConditions:
    """Draw guidance conditions on the CPU.

    Args:
        batch: number of images B.
        generator: source of the draws.
        omega: lowest and highest scale, log-uniform between them.
        t_min: lowest and highest noise level where guidance ends, uniform between them.
        t_max: likewise where it begins.
    """
    low, high, share = torch.rand(3, batch, generator=generator).unbind(0)
    return GuidanceConditions(
        omega=omega[0] * (omega[1] / omega[0]) ** share,
        t_min=t_min[0] + (t_min[1] - t_min[0]) * low,
        t_max=t_max[0] + (t_max[1] - t_max[0]) * high,
    )


def draw_conditions(
    batch: int,
    generator: torch.Generator,
    *,
    plain: Tensor,
    level: tuple[float, float],
    longest_step: float,
    equal_steps: int,
    equal_share: float,
    omega: Range,
    t_min: Range,
    t_max: Range,
) -> StepConditions:
    """Draw one step's conditions on the CPU.

    Args:
        batch: number of images B.
        generator: source of the draws.
        plain: bool [B], images with r = t and guidance at every noise level.
        level: mean and deviation of the normal distribution whose sigmoid t and r are.
        longest_step: bound on t - r; r is moved up where it is further away.
        equal_steps: n of the steps k/n to (k - 1)/n that a solver of n equal steps takes.
        equal_share: probability that an image with a step has one of these instead of a free one.
        omega, t_min, t_max: as for ``draw_guidance``.
    """
    mean, deviation = level
    levels = torch.randn(2, batch, generator=generator) * deviation + mean
    first, second = torch.sigmoid(levels).unbind(0)
    second = torch.where(plain, first, second)
    guidance = draw_guidance(batch, generator, omega=omega, t_min=t_min, t_max=t_max)
    t = torch.maximum(first, second)
    r = torch.maximum(torch.minimum(first, second), t - longest_step)
    chance, position = torch.rand(2, batch, generator=generator).unbind(0)
    equal = (chance < equal_share) & ~plain
    end = torch.floor(position * equal_steps)
    return StepConditions(
        t=torch.where(equal, (end + 1) / equal_steps, t),
        r=torch.where(equal, end / equal_steps, r),
        omega=guidance.omega,
        t_min=torch.where(plain, 0.0, guidance.t_min),
        t_max=torch.where(plain, 1.0, guidance.t_max),
    )


def teacher_velocity(
    teacher: Callable[..., Tensor],
    z: Tensor,
    context: Tensor,
    mask: Tensor,
    conditions: StepConditions,
    floor: float = LEVEL_FLOOR,
) -> Tensor:
    """The guided velocity that the student learns to average.

    Args:
        teacher: (x, context, mask) -> x0.
        z: float32 [B, 3, H, W], the noisy images.
        context: [B, L, width].
        mask: [B, L].
        conditions: guidance applies from t_min to t_max, both included.
        floor: of t where it divides.

    Returns:
        v: float32 [B, 3, H, W], from image to noise, without gradient.
    """
    inside = (conditions.t_min <= conditions.t) & (conditions.t <= conditions.t_max)
    omega = _column(torch.where(inside, conditions.omega, 1.0))
    with torch.no_grad():
        masks = torch.cat([mask, torch.zeros_like(mask)])
        x0 = teacher(torch.cat([z, z]), torch.cat([context, context]), masks)
        cond, uncond = x0.to(torch.float32).chunk(2)
    return _velocity(z, omega * cond + (1 - omega) * uncond, conditions.t, floor)


def mean_velocity(
    student: Callable[..., Tensor],
    z: Tensor,
    context: Tensor,
    mask: Tensor,
    conditions: StepConditions,
    floor: float = LEVEL_FLOOR,
) -> Tensor:
    """The student's average velocity u from t down to r, float32 [B, 3, H, W]."""
    guidance = {name: getattr(conditions, name) for name in ("omega", "t_min", "t_max")}
    x0 = student(z, context, mask, h=conditions.t - conditions.r, **guidance)
    return _velocity(z, x0.to(torch.float32), conditions.t, floor)


@torch.no_grad()
def velocity_derivative(
    student: Callable[..., Tensor],
    z: Tensor,
    direction: Tensor,
    context: Tensor,
    mask: Tensor,
    conditions: StepConditions,
    floor: float = LEVEL_FLOOR,
) -> Tensor:
    """du/dt along (direction, 1, 0) in (z, t, r), in forward mode, without gradient.

    Args:
        student, z, context, mask, conditions, floor: as ``mean_velocity`` takes them.
        direction: float32 [B, 3, H, W], dz/dt.

    Returns:
        float32 [B, 3, H, W].
    """

    def u(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        moved = dataclasses.replace(conditions, t=t, r=r)
        return mean_velocity(student, z, context, mask, moved, floor)

    tangents = (direction, torch.ones_like(conditions.t), torch.zeros_like(conditions.r))
    return forward_derivative(u, (z, conditions.t, conditions.r), tangents)


@torch.no_grad()
def forward_derivative(
    function: Callable[..., Tensor], values: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
) -> Tensor:
    """A network's derivative along given tangents, in forward mode, without gradient."""
    # Neither the fused attention kernels nor compiled functions have a forward-mode derivative;
    # these forms are the same functions.
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        derivative: Tensor = torch.func.jvp(function, values, tangents)[1]
    return derivative


def add_noise(images: Tensor, unit_noise: Tensor, t: Tensor) -> Tensor:
    """z = (1 - t) images + t noise, float32 [B, 3, H, W]."""
    t = _column(t)
    return (1 - t) * images + t * NOISE_SCALE * unit_noise


def mean_flow_loss(
    u: Tensor, derivative: Tensor, target: Tensor, h: Tensor, *, adaptive: bool = True
) -> tuple[Tensor, Tensor]:
    """Squared distance of u + h du/dt from the guided velocity.

    Args:
        u: float32 [B, 3, H, W], ``mean_velocity``; carries the gradient.
        derivative: float32 [B, 3, H, W], ``velocity_derivative``.
        target: float32 [B, 3, H, W], ``teacher_velocity``.
        h: float32 [B], t - r.
        adaptive: divide each image's sum of squares by itself plus a small number, so that every
            image counts alike.

    Returns:
        scalar float32, what is minimized, and the mean square it stands for. With ``adaptive``
        the first is always close to 1.
    """
    squares = (u + _column(h) * derivative - target).square()
    sums = squares.sum((1, 2, 3))
    weights = sums.detach() + WEIGHT_EPS if adaptive else torch.ones_like(sums)
    return (sums / weights).mean(), squares.detach().mean()


def _velocity(z: Tensor, x0: Tensor, t: Tensor, floor: float) -> Tensor:
    return (z - x0) / _column(t).clamp(min=floor)


def _column(value: Tensor) -> Tensor:
    return value.reshape(-1, 1, 1, 1)
