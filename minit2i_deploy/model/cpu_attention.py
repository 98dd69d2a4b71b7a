"""Attention as plain matrix products, for processors on which torch's fused kernel is slower.

Products of matrices that stay in the cache run at the processor's full bf16 rate; torch's fused
kernel for CPUs does not, unless the processor has tile instructions (AMX). On a core with AVX-512
and bf16, without AMX, forward and backward take 14 ms in place of 34 (12 heads of 64, 512 tokens),
75 in place of 155 (the same, 1280 tokens) and 20 in place of 54 (256 heads of 48, 80 tokens). Like
the fused kernel this one stores no scores for the backward pass but computes them again, so memory
does not grow with the square of the tokens.

Shapes: B batch, H heads, N and M tokens, K head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor

FUSED_KERNEL_IS_SLOW: Final = (
    torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
)
# Bytes of one buffer of scores. Two or three buffers are reused for all heads and stay in cache.
_SCORES_BYTES: Final = 4 * 2**20


def use_plain_products(q: Tensor) -> bool:
    """Whether a query's attention uses this form: in training in bf16 on such a processor.

    Without a gradient the fused kernel is used: that path is exported, and forward-mode derivatives
    need it.
    """
    return (
        q.device.type == "cpu"
        and q.dtype == torch.bfloat16
        and q.requires_grad
        and FUSED_KERNEL_IS_SLOW
    )


@torch.library.custom_op("minit2i::plain_attention", mutates_args=())
def plain_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Full softmax attention, a few heads at a time.

    Args:
        q: [B, H, N, K].
        k, v: [B, H, M, K].
        scale: factor of the scores.

    Returns:
        [B, H, N, K].
    """
    # Contiguous, so that its flattened form is a view: bmm writes into that.
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    q, k, v, flat = (value.flatten(0, 1) for value in (q, k, v, out))
    for heads, scores, shares in _parts(q, k, count=2):
        _shares(q[heads], k[heads], scale, scores, shares)
        torch.bmm(shares, v[heads], out=flat[heads])
    return out


@torch.library.custom_op("minit2i::plain_attention_backward", mutates_args=())
def _gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = tuple(
        torch.empty_like(value, memory_format=torch.contiguous_format) for value in (q, k, v)
    )
    d_q, d_k, d_v = (value.flatten(0, 1) for value in gradients)
    grad, q, k, v = (value.flatten(0, 1) for value in (grad, q, k, v))
    for heads, scores, shares, d_shares in _parts(q, k, count=3):
        _shares(q[heads], k[heads], scale, scores, shares)
        torch.bmm(shares.mT, grad[heads], out=d_v[heads])
        torch.bmm(grad[heads], v[heads].mT, out=d_shares)
        # Their gradient takes the place of the scores, which nothing reads any more.
        torch.ops.aten._softmax_backward_data.out(d_shares, shares, -1, q.dtype, grad_input=scores)
        _scaled_product(scores, k[heads], scale, out=d_q[heads])
        _scaled_product(scores.mT, q[heads], scale, out=d_k[heads])
    return gradients[0], gradients[1], gradients[2]


def _parts(q: Tensor, k: Tensor, count: int) -> Iterator[tuple[Any, ...]]:
    """Slices of heads, each with buffers [heads, N, M] that are used again for the next."""
    queries, keys = q.shape[1], k.shape[1]
    size = max(1, min(len(q), _SCORES_BYTES // (queries * keys * q.element_size())))
    buffers = [q.new_empty(size, queries, keys) for _ in range(count)]
    for start in range(0, len(q), size):
        stop = min(start + size, len(q))
        yield slice(start, stop), *(buffer[: stop - start] for buffer in buffers)


def _shares(q: Tensor, k: Tensor, scale: float, scores: Tensor, shares: Tensor) -> None:
    _scaled_product(q, k.mT, scale, out=scores)
    torch.softmax(scores, -1, out=shares)


def _scaled_product(a: Tensor, b: Tensor, scale: float, out: Tensor) -> None:
    # With beta 0 the old content is ignored, even where it is NaN.
    torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


@plain_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@_gradients.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = (
        torch.empty_like(value, memory_format=torch.contiguous_format) for value in (q, k, v)
    )
    return first, second, third


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients(grad, *ctx.saved_tensors, ctx.scale), None


plain_attention.register_autograd(_backward, setup_context=_setup_context)
