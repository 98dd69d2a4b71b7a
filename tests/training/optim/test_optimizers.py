"""Which parameter goes to which optimizer, and what a step does to it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from minit2i_deploy.checkpoints import canonical_shapes
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.optim.optimizers import Optimizers
from tests.helpers.training_runs import TINY_MODEL, tiny_recipe

# Written out, so that a renamed or added matrix is noticed.
TEXT_BLOCK = ["qkv", "attn_proj", "mlp.w1", "mlp.w2", "mlp.w3"]
DOUBLE_BLOCK = [f"{stream}_{name}" for stream in ("img", "txt") for name in TEXT_BLOCK]


def test_muon_takes_exactly_the_matrices_of_the_blocks() -> None:
    parameters = MMJiT(TINY_MODEL).canonical_parameters()
    names = {id(value): name for name, value in parameters.items()}
    adam, muon = (
        {names[id(value)] for group in part.param_groups for value in group["params"]}
        for part in Optimizers(parameters, tiny_recipe(optimizer="muon")).parts
    )
    expected = {f"txt_preamble_blocks.{i}.{name}.weight" for i in range(2) for name in TEXT_BLOCK}
    expected |= {f"double_blocks.{i}.{name}.weight" for i in range(2) for name in DOUBLE_BLOCK}
    assert muon == expected
    assert adam == set(canonical_shapes(TINY_MODEL)) - expected


def test_adamw_alone_takes_everything() -> None:
    parameters = MMJiT(TINY_MODEL).canonical_parameters()
    (part,) = Optimizers(parameters, tiny_recipe(optimizer="adamw")).parts
    assert isinstance(part, torch.optim.AdamW)
    assert sum(len(group["params"]) for group in part.param_groups) == len(parameters)


def test_adamw_is_the_textbook_update_with_betas_0_9_and_0_95() -> None:
    rng = np.random.default_rng(0)
    value, gradients = rng.normal(size=5), rng.normal(size=(3, 5))
    parameter = nn.Parameter(torch.tensor(value, dtype=torch.float32))
    optimizers = Optimizers({"w": parameter}, tiny_recipe(optimizer="adamw", weight_decay=0.1))
    mean, square = np.zeros(5), np.zeros(5)
    for step, gradient in enumerate(gradients, start=1):
        rate = 0.01 * step
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizers.step(rate)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        scaled = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.95**step)) + 1e-8)
        value = value * (1 - rate * 0.1) - rate * scaled
    error = np.abs(parameter.detach().numpy() - value).max()
    assert error <= 1e-6  # measured 2.1e-8
    assert parameter.grad is None


def test_muon_steps_are_even_in_all_directions_and_as_large_as_adamw_steps() -> None:
    matrix, bias = nn.Parameter(torch.zeros(96, 32)), nn.Parameter(torch.zeros(1))
    optimizers = Optimizers({"x_blocks.0.w": matrix, "bias": bias}, tiny_recipe())
    gradient = torch.randn(96, 32, generator=torch.Generator().manual_seed(0))
    matrix.grad = gradient.clone()
    optimizers.step(1.0)
    update = matrix.detach()
    # 0.2 of the rate is the usual size of AdamW's update; measured 0.165, because Muon's
    # iteration leaves singular values between 0.7 and 1.2.
    assert 0.2 * 0.7 < update.square().mean().sqrt().item() < 0.2 * 1.2
    parallelize = [torch.linalg.cond(values).item() for values in (gradient, update)]
    assert parallelize[0] > 3 and parallelize[1] < 1.8  # measured 3.5 and 1.56
    assert (update * gradient).sum() < 0


def test_state_survives_a_round_trip() -> None:
    def stepped(optimizers: Optimizers, parameters: dict[str, nn.Parameter]) -> list[torch.Tensor]:
        for value in parameters.values():
            value.grad = torch.ones_like(value)
        optimizers.step(0.01)
        return [value.detach().clone() for value in parameters.values()]

    def made() -> tuple[Optimizers, dict[str, nn.Parameter]]:
        parameters = {
            "x_blocks.0.w": nn.Parameter(torch.eye(3)),
            "bias": nn.Parameter(torch.ones(3)),
        }
        return Optimizers(parameters, tiny_recipe(optimizer="muon")), parameters

    first, values = made()
    stepped(first, values)
    second, others = made()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for name, value in values.items():
            others[name].copy_(value)
    for one, other in zip(stepped(first, values), stepped(second, others), strict=True):
        assert torch.equal(one, other)
