"""The step module against the numpy arithmetic of a table's row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.model import MMJiT, Step
from minit2i_deploy.model.loop import run_row, run_table
from minit2i_deploy.model.step import guided_estimate
from minit2i_deploy.solvers.row import advance
from minit2i_deploy.solvers.table import Table, solver_table

CONFIG = ModelConfig(
    image_size=16,
    patch_size=8,
    hidden_size=32,
    num_heads=2,
    head_dim=16,
    depth_double=2,
    pca_channels=8,
    txt_input_size=24,
    prompt_length=5,
)
# Measured 4.3e-6 at most, on values up to 7.
MAX_ABS_ERROR = 2e-5

# One row of each thing a row can do: a, b, c, s, clip, rescale.
ROWS = {
    "euler": (0.9, 0.1, 0.0, 0.0, 0.0, 0.0),
    "history": (0.7, 0.5, -0.2, -1.0, 0.0, 0.0),
    "clip": (0.9, 0.1, 0.0, 0.0, 0.6, 0.0),
    "rescale": (0.9, 0.1, 0.0, 0.0, 0.0, 0.7),
    "all": (0.7, 0.5, -0.2, -1.0, 1.1, 1.0),
}
WEIGHTS = {"alone": (1.0,), "guided": (2.5, -1.5), "three": (3.0, -1.2, -0.8)}


def network() -> MMJiT:
    torch.manual_seed(0)
    net = MMJiT(CONFIG)
    torch.nn.init.normal_(net.denoiser.final_layer.linear.weight, std=0.3)
    return net.eval().requires_grad_(False)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def branches_of(net: MMJiT, x: Tensor, tokens: Tensor) -> np.ndarray:
    """Each branch evaluated on its own."""
    return np.stack([net.denoiser(x, branch).numpy() for branch in tokens])


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_step_is_the_rows_arithmetic(row: tuple[float, ...], weights: tuple[float, ...]) -> None:
    net, x, h = network(), normal(2, 3, 16, 16), normal(2, 3, 16, 16) * 0.5
    tokens = normal(len(weights), 2, 5, 32)
    actual = run_row(Step(net.denoiser), x, h, tokens, torch.tensor(weights), torch.tensor(row))
    expected = advance(
        x.numpy(),
        h.numpy(),
        branches_of(net, x, tokens),
        np.array(weights, dtype=np.float32),
        np.array(row, dtype=np.float32),
    )
    for value, oracle in zip(actual, expected, strict=True):
        assert value.dtype == torch.float32
        assert np.abs(value.numpy() - oracle).max() <= MAX_ABS_ERROR


def test_clip_and_rescale_change_the_result() -> None:
    x0, weights = normal(2, 1, 3, 8, 8), torch.tensor([[2.5], [-1.5]])

    def estimate(clip: float, rescale: float) -> Tensor:
        return guided_estimate(x0, weights, torch.tensor(clip), torch.tensor(rescale))

    plain = estimate(0.0, 0.0)
    assert (plain - (2.5 * x0[0] - 1.5 * x0[1])).abs().max() <= 1e-6  # measured 0
    assert (estimate(0.5, 0.0).abs() <= 2.0 + 1e-6).all() and plain.abs().max() > 2.5
    # Fully rescaled, the spread is the conditional branch's.
    assert estimate(0.0, 1.0).std().item() == pytest.approx(x0[0].std().item(), rel=1e-5)


def test_an_even_estimate_is_not_divided_by_zero() -> None:
    even = torch.full((1, 1, 3, 4, 4), 0.25)
    actual = guided_estimate(even, torch.ones(1, 1), torch.tensor(0.0), torch.tensor(1.0))
    assert torch.isfinite(actual).all()


def test_a_half_precision_network_keeps_the_state_in_float32() -> None:
    net, x = network(), normal(1, 3, 16, 16)
    tokens, row = normal(1, 1, 5, 32), torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    exact, _ = run_row(Step(net.denoiser.to(torch.bfloat16)), x, x, tokens, torch.ones(1), row)
    assert torch.equal(exact, x)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_the_loop_is_the_tables_rows_in_order(solver: str) -> None:
    net, table = network(), solver_table(solver, steps=3)
    start, tokens = normal(1, 3, 16, 16), normal(2, 1, 5, 32)
    states = [x for x, _ in run_table(Step(net.denoiser), start, tokens, table, 2.5)]
    x, h = start.numpy(), np.zeros((1, 3, 16, 16), np.float32)
    for row, state in zip(table.steps(2.5), states, strict=True):
        x0 = branches_of(net, torch.from_numpy(x), tokens)
        x, h = advance(x, h, x0, row.weights, row.values)
        assert np.abs(state.numpy() - x).max() <= MAX_ABS_ERROR


def test_the_loop_leaves_a_branch_out_where_guidance_is_one() -> None:
    net, table = network(), solver_table("euler", steps=4, interval=(0.0, 0.3))
    sizes = []
    step = Step(net.denoiser)
    step.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[2].shape[0]))
    for _ in run_table(step, normal(1, 3, 16, 16), normal(2, 1, 5, 32), table, 2.5):
        pass
    assert sizes == [2, 2, 1, 1]


def test_the_loop_refuses_rows_that_want_noise() -> None:
    euler = solver_table("euler", steps=1)
    rows = euler.rows.copy()
    rows[0, euler.columns.index("n")] = 0.5
    noisy = Table(name="noisy", columns=euler.columns, rows=rows)
    states = run_table(
        Step(network().denoiser), normal(1, 3, 16, 16), normal(2, 1, 5, 32), noisy, 2.5
    )
    with pytest.raises(AssertionError, match="deterministic"):
        next(states)
