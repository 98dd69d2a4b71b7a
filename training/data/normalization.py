"""From bytes to what the network reads."""

from __future__ import annotations

import torch
from torch import Tensor


def to_network_range(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]: k / 127.5 - 1."""
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
