"""Stacked Muon against torch's own, matrix by matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from minit2i_deploy.training.optim import muon as module
from minit2i_deploy.training.optim.muon import Muon, orthogonalize

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SHAPES = [(24, 8), (8, 24), (24, 8), (16, 16), (24, 8)]


def matrices(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize("scale", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_updates_and_state_are_torchs(scale: str, nesterov: bool) -> None:
    ours, theirs = ([nn.Parameter(m) for m in matrices(0)] for _ in range(2))
    settings = {"weight_decay": 0.1, "nesterov": nesterov, "adjust_lr_fn": scale}
    optimizers = (Muon(ours, 0.1, **settings), torch.optim.Muon(theirs, 0.1, **settings))
    for step in range(3):
        for group in (ours, theirs):
            for parameter, gradient in zip(group, matrices(step + 1), strict=True):
                parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    for one, other, first in zip(ours, theirs, matrices(0), strict=True):
        moved = (other - first).abs().max()
        # Both iterate in bf16 and round other sums: measured 0.013 of the largest move.
        assert (one - other).abs().max() < 0.03 * moved
    state, expected = (optimizer.state_dict() for optimizer in optimizers)
    assert state["param_groups"] == expected["param_groups"]
    for place, values in expected["state"].items():
        assert torch.equal(state["state"][place]["momentum_buffer"], values["momentum_buffer"])


def test_a_stack_is_its_matrices_one_by_one() -> None:
    stack = torch.randn(5, 12, 20, generator=torch.Generator().manual_seed(3))
    together = orthogonalize(stack, COEFFICIENTS, 5, 1e-7).float()
    alone = torch.cat([orthogonalize(m[None], COEFFICIENTS, 5, 1e-7) for m in stack]).float()
    assert (together - alone).abs().max() < 0.02  # measured 0 to 8e-3, by the machine's products


@pytest.mark.parametrize("shape", [(30, 10), (10, 30)])
def test_singular_values_come_close_to_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    first, _, right = torch.linalg.svd(matrix, full_matrices=False)
    actual = orthogonalize(matrix[None], COEFFICIENTS, 5, 1e-7)[0].float()
    values = first.mT @ actual @ right.mT
    assert 0.6 < values.diagonal().min() and values.diagonal().max() < 1.3
    assert (values - values.diagonal().diag()).abs().max() < 0.05  # measured 0.012


def test_a_stack_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def spy(stack: torch.Tensor, *settings: object) -> torch.Tensor:
        sizes.append(len(stack))
        return torch.zeros_like(stack)

    monkeypatch.setattr(module, "orthogonalize", spy)
    monkeypatch.setattr(module, "_STACK_BYTES", 2 * 2 * 24 * 8)
    parameters = [nn.Parameter(m) for m in matrices(0)]
    for parameter in parameters[:-1]:
        parameter.grad = torch.ones_like(parameter)
    Muon(parameters, 0.1).step()
    # Without a gradient there is no update: two of (24, 8), then one of each other shape.
    assert sizes == [2, 1, 1]


def test_what_torch_wrote_is_read() -> None:
    parameters = [nn.Parameter(m) for m in matrices(0)]
    theirs, ours = torch.optim.Muon(parameters, 0.1), Muon(parameters, 0.2)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    theirs.step()
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["lr"] == 0.1
    assert torch.equal(
        ours.state[parameters[1]]["momentum_buffer"], theirs.state[parameters[1]]["momentum_buffer"]
    )


def test_without_bf16_the_iterations_are_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "matrix_dtype", lambda device: torch.float32)
    parameter = nn.Parameter(matrices(0)[0])
    before = parameter.detach().clone()
    parameter.grad = matrices(1)[0]
    Muon([parameter], 0.1, weight_decay=0.0, nesterov=False, adjust_lr_fn="original").step()
    a, b, c = COEFFICIENTS
    # The first step's momentum is a multiple of the gradient, and the norm removes the factor.
    x = (parameter.grad / parameter.grad.norm()).double().mT
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    expected = before - 0.1 * 3**0.5 * x.mT.float()
    assert (parameter - expected).abs().max() < 1e-6  # measured 1.2e-7; bf16 is off by 2.1e-3
