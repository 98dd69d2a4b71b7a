"""Attention as plain products: the same function as the fused kernel, in parts of any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minit2i_deploy.model import cpu_attention
from minit2i_deploy.model.cpu_attention import plain_attention, use_plain_products
from minit2i_deploy.model.heads import Heads

SCALE = 0.3


def inputs(dtype: torch.dtype, rows: int = 7, columns: int = 9) -> list[Tensor]:
    """q, k, v of 2 pictures and 3 heads of width 8, that take a gradient."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, n, 8, generator=generator).to(dtype).requires_grad_()
        for n in (rows, columns, columns)
    ]


def textbook(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    shares = torch.exp(scale * q @ k.mT)
    return (shares / shares.sum(-1, keepdim=True)) @ v


def with_gradients(out: Tensor, values: list[Tensor]) -> list[Tensor]:
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, values, grad)]


# All heads at once, two and a rest, and one at a time.
@pytest.mark.parametrize("part_bytes", [2**20, 2 * 4 * 7 * 9, 1])
def test_values_and_gradients_are_the_textbooks(
    part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "_SCORES_BYTES", part_bytes)
    values = inputs(torch.float32)
    actual = with_gradients(plain_attention(*values, SCALE), values)
    exact = [value.detach().double().requires_grad_() for value in values]
    expected = with_gradients(textbook(*exact, SCALE), exact)
    for mine, other in zip(actual, expected, strict=True):
        # Measured 4e-7.
        assert mine.double() == pytest.approx(other, abs=3e-6)


def test_bf16_rounds_a_little_more_than_the_fused_kernel() -> None:
    values = inputs(torch.bfloat16, 64, 80)
    exact = [value.detach().double().requires_grad_() for value in values]
    expected = with_gradients(textbook(*exact, SCALE), exact)
    for form in (
        plain_attention,
        lambda *arguments: F.scaled_dot_product_attention(*arguments[:3], scale=SCALE),
    ):
        actual = with_gradients(form(*values, SCALE), values)
        for mine, other in zip(actual, expected, strict=True):
            error = float((mine.double() - other).norm() / other.norm())
            # Measured 3e-3 to 5e-3, and 2e-3 to 4e-3 of the fused kernel.
            assert 1e-4 < error < 1e-2


def test_no_scores_are_saved_for_the_backward_pass() -> None:
    saved: list[int] = []
    values = inputs(torch.bfloat16, 64, 80)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        plain_attention(*values, SCALE)
    assert saved == [value.numel() for value in values]


def test_torch_accepts_the_operator() -> None:
    torch.library.opcheck(plain_attention, (*inputs(torch.float32), SCALE))


def test_only_training_in_bf16_on_such_a_processor_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu_attention, "FUSED_KERNEL_IS_SLOW", True)
    q = inputs(torch.bfloat16)[0]
    assert use_plain_products(q)
    assert not use_plain_products(q.detach())
    assert not use_plain_products(q.float())
    assert not use_plain_products(q.to("meta"))
    monkeypatch.setattr(cpu_attention, "FUSED_KERNEL_IS_SLOW", False)
    assert not use_plain_products(q)


@pytest.mark.parametrize("scale", [None, SCALE])
@pytest.mark.parametrize("compiled", [False, True])
def test_attention_takes_it_as_one_node(
    scale: float | None, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[float] = []
    monkeypatch.setattr(cpu_attention, "FUSED_KERNEL_IS_SLOW", True)
    values = inputs(torch.bfloat16)
    fused = F.scaled_dot_product_attention(*values, scale=scale)
    expected = fused.detach().transpose(1, 2).flatten(2)

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        nodes = [n for n in graph.graph.nodes if "plain_attention" in str(n.target)]
        scales.extend(node.args[-1] for node in nodes)
        return graph

    attend = Heads(head_dim=8, scale=scale).attend
    form = torch.compile(attend, backend=backend, fullgraph=True) if compiled else attend
    actual = form(*values).detach()
    assert actual.shape == (2, 7, 24)
    # Another rounding than the fused kernel's: measured 8e-3.
    assert actual.float() == pytest.approx(expected.float(), abs=2e-2)
    assert not torch.equal(actual, expected)
    assert scales == ([scale or 8**-0.5] if compiled else [])
