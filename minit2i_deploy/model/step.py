"""One row of a solver table as a graph: guidance and update around the denoiser.

Images of one batch may be at different rows, under different solvers and guidance scales, because
the network never sees the time. ``minit2i_deploy.solvers.row.advance`` is the same arithmetic in
numpy and the test oracle.
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
        weights: float32 [branches, B], for classifier-free guidance [g, 1 - g] of each image.
        clip: float32 [B, 1, 1, 1], bound on every prediction before the mix; 0 is no bound.
        rescale: float32 [B, 1, 1, 1] in 0..1, share of guidance rescale.

    Returns:
        y: float32 [B, 3, H, W].

    Source: classifier-free guidance, Ho and Salimans 2207.12598; rescale, Lin et al. 2305.08891
    equations 15 and 16, here on x0, which for a shared (x, t) is the same mix as on velocities.
    """
    bound = torch.where(clip > 0, clip, torch.finfo(torch.float32).max)
    x0 = torch.maximum(torch.minimum(x0, bound), -bound)
    y = (weights[..., None, None, None] * x0).sum(0)
    ratio = _spread(x0[0]) / _spread(y).clamp(min=STD_FLOOR)
    return y * (1 + rescale * (ratio - 1))


def _spread(image: Tensor) -> Tensor:
    centred = image - image.mean((1, 2, 3), keepdim=True)
    return centred.square().mean((1, 2, 3), keepdim=True).sqrt()


class Step(nn.Module):
    """The step graph. The update is float32 whatever the network's type.

    A sequence is one evaluation of the network: an image's state under one text. Which image it is
    of, and which sequences an image mixes, are two lists of places, so that an image without
    guidance brings one sequence and pays for one. Gathering by place, unlike a product with a
    mixing matrix, lets no NaN of one image reach another, and adds up in the same order in every
    batch.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        x: Tensor,
        h: Tensor,
        tokens: Tensor,
        image: Tensor,
        sequence: Tensor,
        weights: Tensor,
        row: Tensor,
        known: Tensor,
        known_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Advance each image by one row of its own.

        Args:
            x: float32 [B, 3, H, W], the noisy images.
            h: float32 [B, 3, H, W], the history slot, zero before the first row.
            tokens: float32 [sequences, L, D], the adapted tokens of every sequence.
            image: int64 [sequences], place in the batch of a sequence's image.
            sequence: int64 [branches, B], place of each branch of an image, the conditional one
                first. An image with fewer branches names one of its own again, with weight 0.
            weights: float32 [branches, B].
            row: float32 [B, 6]: a, b, c, s, clip, rescale (row.GRAPH_COLUMNS).
            known: float32 [B, 3, H, W], pixels that are known.
            known_mask: float32 [B, 1, H, W], 1 where the estimate becomes the known pixel, 0 where
                it stays; zeros mean that nothing is known.

        Returns:
            x' = a x + b y + c h and h' = y + s x, both float32 [B, 3, H, W].
        """
        dtype = self.denoiser.final_layer.linear.weight.dtype
        x0 = self.denoiser(x.to(dtype).index_select(0, image), tokens.to(stream_dtype(dtype)))
        x0 = x0.to(torch.float32).index_select(0, sequence.reshape(-1))
        a, b, c, s, clip, rescale = row[..., None, None, None].unbind(1)
        y = guided_estimate(x0.reshape(*sequence.shape, *x.shape[1:]), weights, clip, rescale)
        # Exact at both ends of the mask, which y + mask * (known - y) is not.
        y = y * (1 - known_mask) + known * known_mask
        return a * x + b * y + c * h, y + s * x
