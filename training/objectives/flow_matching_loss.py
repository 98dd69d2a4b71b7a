"""The flow-matching loss of MiniT2I. Time runs from 0 (noise) to 1 (image)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NOISE_SCALE = 2.0
TRAIN_A_MIN = 0.01


def draw_times(batch: int, generator: torch.Generator, *, mean: float, std: float) -> Tensor:
    """Logit-normal times: sigmoid(N(mean, std)), float32 [batch], 0 noise to 1 image."""
    normal = torch.randn(batch, generator=generator)
    return torch.sigmoid(normal * std + mean)


def drop_captions(mask: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Zero the whole mask of a random share of captions; [B, L] to [B, L]."""
    keep = torch.rand(mask.shape[0], generator=generator) >= rate
    return mask * keep.to(mask.dtype).unsqueeze(1)


def flow_matching_loss(
    net: Callable[[Tensor, Tensor, Tensor], Tensor],
    images: Tensor,
    context: Tensor,
    mask: Tensor,
    t: Tensor,
    unit_noise: Tensor,
    *,
    noise_scale: float = NOISE_SCALE,
    a_min: float = TRAIN_A_MIN,
    target: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean squared difference of predicted and true velocity.

    Args:
        net: (x, context, mask) -> x0.
        images: float32 [B, 3, H, W] in [-1, 1].
        context: [B, L, width], the text encoder's output.
        mask: [B, L], after caption dropping.
        t: float32 [B], 0 noise to 1 image.
        unit_noise: float32 [B, 3, H, W], standard normal.
        noise_scale: standard deviation of the noise.
        a_min: floor of 1 - t where it divides.
        target: (x, context, mask) -> float32 target x0 of the network; the images if None.

    Returns:
        scalar float32.

    Source: minit2i-jax main, SimDDPM.forward; SPEC: x_t = t x + (1 - t) eps,
    v = (x0 - x_t) / max(1 - t, a_min) for both the prediction and the image.
    """
    t = t.reshape(-1, 1, 1, 1)
    x_t = t * images + (1 - t) * noise_scale * unit_noise
    x0 = net(x_t, context, mask).to(torch.float32)
    target_x0 = images if target is None else target(x_t, context, mask)
    return ((x0 - target_x0) / (1 - t).clamp(min=a_min)).square().mean()
