"""Layers of MM-JiT. Shapes: B batch, N tokens, D width.

Source: minit2i-jax main, models/mmjit.py; parameter names are the Hub release's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


def stream_dtype(weights: torch.dtype) -> torch.dtype:
    """Type of the residual stream, by the type of a network's weights.

    bfloat16 has 8 bits, and rounding the stream after every block costs far more accuracy than
    rounding what the layers read. float16 has three bits more, so its stream stays float16.
    """
    return torch.float32 if weights == torch.bfloat16 else weights


def as_stream(values: Tensor, weights: torch.dtype) -> Tensor:
    """Convert to the stream's type; under autocast, where weights are float32, nothing changes."""
    return values.to(torch.float32) if weights == torch.bfloat16 else values


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, with a weight. Statistics are computed in float32.

    In a bfloat16 network the norm of the float32 stream is bfloat16, as the layers read it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = NORM_EPS

    def forward(self, x: Tensor) -> Tensor:
        normed = F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        return normed.to(torch.bfloat16) if self.weight.dtype == torch.bfloat16 else normed


def add_to_stream(stream: Tensor, update: Tensor) -> Tensor:
    """Add an update in the stream's type."""
    return stream + update.to(stream.dtype)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), no biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x_BND)) * self.w3(x_BND))
