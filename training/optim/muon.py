"""torch's Muon with the Newton-Schulz iterations of equal shapes done together.

A network has few shapes of matrices and many matrices of each. One by one they are thousands of
small products a step; stacked, dozens. The arithmetic stays the same, so that only what is spent
between the products gets less: a single CPU core gains nothing. State and groups are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from minit2i_deploy.training.distributed.parallel import full_tensor, local_shard, shard_like
from minit2i_deploy.training.distributed.precision import matrix_dtype

# Bounds the extra memory of one stack; beyond it the products are large enough alone.
_STACK_BYTES: Final = 256 * 2**20


def orthogonalize(
    stack: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float
) -> Tensor:
    """Push the singular values of each matrix towards 1.

    Args:
        stack: [n, A, B], in the type of the iterations.
        coefficients: a, b, c of X <- a X + (b X X^T + c (X X^T)^2) X.
        num_steps: iterations.
        eps: floor of the norm that each matrix is divided by first.

    Returns:
        [n, A, B], in the type of ``stack``.

    Source: kellerjordan.github.io/posts/muon; torch.optim.Muon does one matrix at a time.
    """
    a, b, c = coefficients
    x = stack / stack.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    tall = stack.shape[1] > stack.shape[2]
    if tall:
        x = x.mT
    for _ in range(num_steps):
        gram = torch.bmm(x, x.mT)
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, update, x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Muon):
    """As torch.optim.Muon, with fewer products to launch, and for shards and devices without bf16.

    The iterations are done in bf16, as torch's, where the device multiplies it, and in float32
    elsewhere. A shard's update needs its full matrix: every process gathers it, iterates and keeps
    its own part. At B/16 that is 6 TFLOP a step, 4% of what 128 images take.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every matrix that has a gradient."""
        assert closure is None, "no closure is evaluated here"
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, params, grads, momenta)
            updates = _directions(group, grads, momenta)
            for stack in _stacks(params):
                self._apply(group, [params[i] for i in stack], [updates[i] for i in stack])

    def _apply(self, group: dict[str, Any], params: list[Tensor], updates: list[Tensor]) -> None:
        settings = group["ns_coefficients"], group["ns_steps"], group["eps"]
        full = torch.stack([full_tensor(update) for update in updates])
        rate = group["lr"] * _shape_factor(group["adjust_lr_fn"], *full.shape[1:])
        for param, update in zip(params, orthogonalize(full, *settings), strict=True):
            param.mul_(1 - group["lr"] * group["weight_decay"])
            local_shard(param).add_(local_shard(shard_like(update, param)), alpha=-rate)


def _directions(group: dict[str, Any], grads: list[Tensor], momenta: list[Tensor]) -> list[Tensor]:
    """The momentum of each gradient, in the type of the iterations."""
    weight = group["momentum"]
    directions = []
    for grad, momentum in zip(grads, momenta, strict=True):
        momentum.lerp_(grad, 1 - weight)
        update = grad.lerp(momentum, weight) if group["nesterov"] else momentum
        directions.append(update.to(matrix_dtype(update.device)))
    return directions


def _stacks(params: Sequence[Tensor]) -> list[list[int]]:
    """Indices of parameters of one shape, in stacks of bounded size."""
    groups: dict[torch.Size, list[int]] = {}
    for i, param in enumerate(params):
        groups.setdefault(param.shape, []).append(i)
    stacks = []
    for shape, indices in groups.items():
        size = max(1, _STACK_BYTES // (2 * shape.numel()))
        stacks += [indices[start : start + size] for start in range(0, len(indices), size)]
    return stacks


def _shape_factor(name: str | None, height: int, width: int) -> float:
    """Source: torch.optim.Muon; "original" is the official JAX code's as well."""
    if name == "match_rms_adamw":
        return 0.2 * math.sqrt(max(height, width))
    return math.sqrt(max(1.0, height / width))
