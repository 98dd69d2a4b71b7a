"""What the torch runtime does on a GPU alone: merged products, attention's kernels, memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.model.layers import SwiGLU

# cuDNN's is the fastest on Hopper and later; each takes what the ones before it refuse.
ATTENTION: Final = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


class MergedSwiGLU(nn.Module):
    """SwiGLU with w1 and w3 as one product, which fills a GPU better for few tokens."""

    def __init__(self, source: SwiGLU) -> None:
        super().__init__()
        weight = torch.cat([source.w1.weight, source.w3.weight])
        self.w13 = nn.Parameter(weight, requires_grad=False)
        self.w2 = source.w2

    def forward(self, x_BND: Tensor) -> Tensor:
        first, third = F.linear(x_BND, self.w13).chunk(2, dim=-1)
        return self.w2(F.silu(first) * third)


def merge_products(net: nn.Module) -> None:
    """Replace every SwiGLU of a network, in place."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SwiGLU):
                setattr(parent, name, MergedSwiGLU(child))


@contextlib.contextmanager
def on_device(device: torch.device, doing: str) -> Iterator[None]:
    """Work on a device: attention's kernels in the order of their speed, and memory as one line.

    Args:
        device: that the work runs on.
        doing: what, for the error.

    Raises:
        RuntimeFailure: the device has too little memory.
    """
    order = sdpa_kernel(list(ATTENTION), set_priority=True) if device.type == "cuda" else None
    try:
        with order or contextlib.nullcontext():
            yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise RuntimeFailure(
            f"torch on {device}: {reason}, while it {doing}; use a smaller batch or a precision of "
            "16 bits, or free memory of the device"
        ) from error
