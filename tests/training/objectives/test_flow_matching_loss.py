"""The flow-matching loss, its gradient and its random draws."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.model import MMJiT, build_network
from minit2i_deploy.training.objectives.flow_matching_loss import (
    draw_times,
    drop_captions,
    flow_matching_loss,
)
from minit2i_deploy.training.objectives.random_draws import draw_seed, draw_step
from tests.helpers.checkpoint_forms import PUBLIC, arrays, hub_folder
from tests.helpers.training_runs import tiny_recipe

# Measured 1.1e-7 at most.
LOSS_REL = 1e-5
# Measured 1.4e-7 over the whole gradient and 3.8e-7 for the worst leaf.
GRADIENT_REL = 1e-4
# Measured 3.0e-7 of the largest entry.
WHOLE_GRADIENT_REL = 1e-4


def golden() -> dict[str, Any]:
    return arrays("loss_fm")


def network() -> MMJiT:
    return build_network(load_checkpoint(hub_folder())).requires_grad_(True)


def nchw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def loss_of(net: MMJiT, times: str, a_min: float) -> Tensor:
    g = golden()
    return flow_matching_loss(
        net,
        nchw(g["images"]),
        torch.from_numpy(g["context"]),
        torch.from_numpy(g["mask_after_drop"]),
        torch.from_numpy(g[times]),
        nchw(g["noise_unit"]),
        noise_scale=float(g["noise_scale"]),
        a_min=a_min,
    )


@pytest.mark.parametrize(("times", "infix"), [("t", ""), ("t_edge", "_edge")])
@pytest.mark.parametrize(("a_min", "floor"), [(0.01, "amin_0_01"), (0.05, "amin_0_05")])
def test_loss_and_gradient_norm_are_the_official_ones(
    times: str, infix: str, a_min: float, floor: str
) -> None:
    g, net = golden(), network()
    loss = loss_of(net, times, a_min)
    loss.backward()
    squares = [p.grad.square().sum() for p in net.parameters() if p.grad is not None]
    assert loss.item() == pytest.approx(float(g[f"loss{infix}_{floor}"]), rel=LOSS_REL)
    norm = torch.stack(squares).sum().sqrt().item()
    assert norm == pytest.approx(float(g[f"grad_global_norm{infix}_{floor}"]), rel=GRADIENT_REL)


def gradients() -> dict[str, np.ndarray]:
    """Gradients at the drawn times under the golden arrays' names, in Flax's layout."""
    net = network()
    loss_of(net, "t", 0.01).backward()
    actual = {name: p.grad for name, p in net.canonical_parameters().items()}
    rows = json.loads((PUBLIC / "key_map.json").read_text())
    named = {}
    for row in rows:
        gradient = actual.get(row["hf"].removeprefix("model.net."))
        if gradient is not None:
            value = gradient.numpy()
            named[row["flax"].removeprefix("net/")] = value.T if row["transform"] == "T" else value
    return named


def test_gradient_of_every_leaf_is_the_official_one() -> None:
    g, actual = golden(), gradients()
    norms = dict(zip(g["grad_names"].tolist(), g["grad_norms_amin_0_01"].tolist(), strict=True))
    # The last block's text stream reaches no output.
    inert = {name for name, norm in norms.items() if norm == 0.0}
    assert set(actual) == set(norms) - inert and len(inert) == 6
    for name, norm in norms.items():
        if name not in inert:
            assert np.linalg.norm(actual[name]) == pytest.approx(norm, rel=GRADIENT_REL), name


def test_whole_gradients_are_the_official_ones() -> None:
    g, actual = golden(), gradients()
    whole = {
        name.removeprefix("grad_full__").replace("__", "/"): value
        for name, value in g.items()
        if name.startswith("grad_full__")
    }
    assert len(whole) == 5
    for name, value in whole.items():
        error = np.abs(actual[name] - value).max()
        assert error <= WHOLE_GRADIENT_REL * np.abs(value).max(), name


def test_a_perfect_network_has_no_loss_and_the_scale_is_that_of_velocities() -> None:
    images, noise = torch.rand(3, 3, 8, 8) * 2 - 1, torch.randn(3, 3, 8, 8)
    t = torch.tensor([0.1, 0.5, 0.8])
    nothing = torch.empty(3, 1, 1)

    def loss(error: float) -> float:
        return flow_matching_loss(
            lambda x, context, mask: images + error, images, nothing, nothing, t, noise
        ).item()

    assert loss(0.0) == 0.0
    expected = (0.1**2 / (1 - t.double()) ** 2).mean().item()
    assert loss(0.1) == pytest.approx(expected, rel=1e-5)  # measured 1.5e-7


def test_the_network_sees_the_mix_of_image_and_noise() -> None:
    images, noise = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    recorded: list[Tensor] = []

    def net(x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        recorded.append(x)
        return x

    nothing = torch.empty(2, 1, 1)
    flow_matching_loss(net, images, nothing, nothing, torch.tensor([0.0, 1.0]), noise)
    assert torch.equal(recorded[0][0], 2 * noise[0]) and torch.equal(recorded[0][1], images[1])


@pytest.mark.parametrize(("mean", "std"), [(-0.8, 0.8), (-0.3, 0.6)])
def test_times_are_logistic_normal(mean: float, std: float) -> None:
    t = draw_times(20_000, torch.Generator().manual_seed(3), mean=mean, std=std).double()
    logit = torch.log(t / (1 - t))
    # Standard errors are at most 0.0057 and 0.0040.
    assert logit.mean().item() == pytest.approx(mean, abs=0.02)
    assert logit.std().item() == pytest.approx(std, abs=0.014)
    assert 0 < t.min() and t.max() < 1
    skew = ((logit - logit.mean()) / logit.std()).pow(3).mean().item()
    assert abs(skew) < 0.06  # standard error 0.017


def test_times_are_those_of_the_recipe() -> None:
    """The same draws, moved and stretched."""
    mask = torch.ones(64, 4)
    logits = []
    for changes in ({}, {"time_mean": 0.2, "time_std": 0.4}):
        t = draw_step(tiny_recipe(batch=64, **changes), 0, mask, range(64)).t.double()
        logits.append(torch.log(t / (1 - t)))
    official, own = logits
    assert torch.allclose((official + 0.8) / 0.8, (own - 0.2) / 0.4, atol=1e-5)


def test_captions_are_dropped_completely_at_the_given_rate() -> None:
    mask = torch.ones(20_000, 3)
    retained = drop_captions(mask, 0.1, torch.Generator().manual_seed(0))
    rows = retained.sum(1)
    assert set(rows.tolist()) == {0.0, 3.0}
    assert (rows == 0).float().mean().item() == pytest.approx(0.1, abs=0.008)  # error 0.0021
    assert torch.equal(drop_captions(mask, 0.0, torch.Generator()), mask)
    assert not drop_captions(mask, 1.0, torch.Generator()).any()


def test_draws_are_a_function_of_seed_and_step() -> None:
    mask = torch.ones(4, 20)

    def drawn(seed: int, step: int) -> Tensor:
        return draw_step(tiny_recipe(seed=seed), step, mask, range(4)).noise

    assert torch.equal(drawn(1, 5), drawn(1, 5))
    assert not torch.equal(drawn(1, 5), drawn(1, 6))
    assert not torch.equal(drawn(1, 5), drawn(2, 5))
    assert drawn(1, 5).shape == (4, 3, 16, 16)


def test_seeds_differ_in_the_bits_that_the_generator_uses() -> None:
    # The generator ignores the upper half, so it must not be what tells seeds apart.
    low = torch.randn(2, generator=torch.Generator().manual_seed(5))
    assert torch.equal(low, torch.randn(2, generator=torch.Generator().manual_seed(5 | 1 << 40)))
    at_one_step = {draw_seed(seed, 7) for seed in [*range(1000), 2**31 - 1]}
    assert len(at_one_step) == 1001 and max(at_one_step) < 2**32
    assert draw_seed(0, 7) == 7
