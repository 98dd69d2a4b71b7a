"""One row of a solver table as a graph: guidance and update around the denoiser.

``minit2i_deploy.solvers.table.advance`` is the same arithmetic in numpy and the test oracle.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minit2i_deploy.model.layers import stream_dtype
from minit2i_deploy.model.mmjit import Denoiser

STD_FLOOR = 1e-8


def guided_estimate(x0: Tensor, weights: Tensor, clip: Tensor, rescale: Tensor) -> Tensor:
    """Mix the branches' predictions into one estimate of the clean image.

    Args:
        x0: float32 [branches, B, 3, H, W], predictions, the conditional one first.
        weights: float32 [branches], for classifier-free guidance [g, 1 - g].
        clip: float32 scalar, bound on every prediction before the mix; 0 is no bound.
        rescale: float32 scalar in 0..1, share of guidance rescale.

    Returns:
        y: float32 [B, 3, H, W].

    Source: classifier-free guidance, Ho and Salimans 2207.12598; rescale, Lin et al. 2305.08891
    equations 15 and 16, here on x0, which for a shared (x, t) is the same mix as on velocities.
    """
    bound = torch.where(clip > 0, clip, torch.full_like(clip, torch.finfo(torch.float32).max))
    x0 = torch.maximum(torch.minimum(x0, bound), -bound)
    y = (weights.reshape(-1, 1, 1, 1, 1) * x0).sum(0)
    ratio = _spread(x0[0]) / _spread(y).clamp(min=STD_FLOOR)
    return y * (1 + rescale * (ratio - 1))


def _spread(image: Tensor) -> Tensor:
    centred = image - image.mean((1, 2, 3), keepdim=True)
    return centred.square().mean((1, 2, 3), keepdim=True).sqrt()


class Step(nn.Module):
    """x, h, tokens, weights, row -> x', h'. The update is float32 whatever the network's type."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, x: Tensor, h: Tensor, tokens: Tensor, weights: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Advance the state by one row.

        Args:
            x: float32 [B, 3, H, W], the noisy image.
            h: float32 [B, 3, H, W], the history slot, zero before the first row.
            tokens: float32 [branches, B, L, D], the adapted tokens of every branch.
            weights: float32 [branches].
            row: float32 [6]: a, b, c, s, clip, rescale (row.GRAPH_COLUMNS).

        Returns:
            x' = a x + b y + c h and h' = y + s x, both float32 [B, 3, H, W].
        """
        branches, batch, length, width = tokens.shape
        dtype = self.denoiser.final_layer.linear.weight.dtype
        network_input = x.to(dtype).unsqueeze(0).expand(branches, -1, -1, -1, -1)
        x0 = self.denoiser(
            network_input.reshape(branches * batch, *x.shape[1:]),
            tokens.to(stream_dtype(dtype)).reshape(branches * batch, length, width),
        )
        x0 = x0.to(torch.float32).reshape(branches, batch, *x.shape[1:])
        a, b, c, s, clip, rescale = row.unbind(0)
        y = guided_estimate(x0, weights, clip, rescale)
        return a * x + b * y + c * h, y + s * x
