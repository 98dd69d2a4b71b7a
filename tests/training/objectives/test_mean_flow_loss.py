"""The Mean Flow loss, its derivative, gradient and draws, against the official ones."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.model import MMJiT, build_network
from minit2i_deploy.training.objectives.mean_flow_loss import (
    StepConditions,
    add_noise,
    draw_conditions,
    mean_flow_loss,
    mean_velocity,
    teacher_velocity,
    velocity_derivative,
)
from tests.helpers.checkpoint_forms import PUBLIC, arrays, base_forms, student_forms

# Of the largest value; measured 1.2e-6 for v_g and du/dt and 3.6e-7 for u.
VELOCITY_REL = 1e-5
# Measured 1.4e-7.
LOSS_REL = 1e-5
# Measured 7.2e-7 for the worst leaf's norm and 8.2e-7 of the largest entry.
GRADIENT_REL = 1e-4


@functools.cache
def golden() -> dict[str, Any]:
    return arrays("mf_loss")


def network(forms: dict[str, Any]) -> MMJiT:
    path, arguments = forms["flax-msgpack"]
    return build_network(load_checkpoint(path, **arguments))


def nchw(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def parts(net: MMJiT) -> dict[str, Tensor]:
    g = golden()
    names = ("t", "r", "omega", "t_min", "t_max")
    conditions = StepConditions(**{name: torch.from_numpy(g[name]) for name in names})
    z = add_noise(nchw(g["images"]), nchw(g["noise_unit"]), conditions.t)
    text = (torch.from_numpy(g["context"]), torch.from_numpy(g["mask"]))
    v_g = teacher_velocity(network(base_forms()), z, *text, conditions)
    return {
        "v_g": v_g,
        "u": mean_velocity(net, z, *text, conditions),
        "du_dt": velocity_derivative(net, z, v_g, *text, conditions),
        "h": conditions.t - conditions.r,
    }


def loss_of(net: MMJiT, adaptive: bool) -> tuple[Tensor, Tensor]:
    actual = parts(net)
    return mean_flow_loss(
        actual["u"], actual["du_dt"], actual["v_g"], actual["h"], adaptive=adaptive
    )


def test_velocities_and_derivative_are_the_official_ones() -> None:
    actual = parts(network(student_forms()))
    for name in ("v_g", "u", "du_dt"):
        expected = nchw(golden()[name])
        error = (actual[name] - expected).abs().max() / expected.abs().max()
        assert error <= VELOCITY_REL, name


def test_the_derivative_is_that_of_differences() -> None:
    """In float64, along (v_g, 1, 0): independent of forward mode and of the attention's form."""
    g, net = golden(), network(student_forms()).double()
    names = ("t", "r", "omega", "t_min", "t_max")
    conditions = StepConditions(**{name: torch.from_numpy(g[name]).double() for name in names})
    z, v_g = nchw(g["images"]).double(), nchw(g["v_g"]).double()
    text = (torch.from_numpy(g["context"]).double(), torch.from_numpy(g["mask"]))

    def u(step: float) -> Tensor:
        moved = StepConditions(
            **{n: getattr(conditions, n) for n in names[1:]}, t=conditions.t + step
        )
        return mean_velocity(net, z + step * v_g, *text, moved).double()

    rate = velocity_derivative(net, z, v_g, *text, conditions)
    s = 2e-3
    differences = (8 * (u(s) - u(-s)) - (u(2 * s) - u(-2 * s))) / (12 * s)
    error = ((rate - differences).abs().max() / differences.abs().max()).item()
    # Float32 inside the velocity bounds the differences; measured 4.2e-6.
    assert error < 1e-4


@pytest.mark.parametrize(
    ("adaptive", "suffix", "name"),
    [(True, "", "loss"), (False, "_without_adaptive_weight", "loss_without_adaptive_weight")],
)
def test_loss_and_every_gradient_are_the_official_ones(
    adaptive: bool, suffix: str, name: str
) -> None:
    g, net = golden(), network(student_forms()).requires_grad_(True)
    loss, raw = loss_of(net, adaptive)
    assert loss.item() == pytest.approx(float(g[name]), rel=LOSS_REL)
    assert raw.item() == pytest.approx(float(g["loss_u_raw"]), rel=LOSS_REL)
    loss.backward()
    norms = dict(zip(g["grad_names"].tolist(), g[f"grad_norms{suffix}"].tolist(), strict=True))
    actual = gradients(net)
    inert = {leaf for leaf, norm in norms.items() if norm == 0.0}
    assert set(actual) == set(norms) - inert
    for leaf, value in actual.items():
        assert np.linalg.norm(value) == pytest.approx(norms[leaf], rel=GRADIENT_REL), leaf
    total = np.sqrt(sum(np.square(value).sum(dtype=np.float64) for value in actual.values()))
    assert total == pytest.approx(float(g[f"grad_global_norm{suffix}"]), rel=GRADIENT_REL)


def gradients(net: MMJiT) -> dict[str, np.ndarray]:
    """Under the golden arrays' names, in Flax's layout."""
    actual = {name: p.grad for name, p in net.canonical_parameters().items()}
    named = {}
    for row in json.loads((PUBLIC / "key_map_mf.json").read_text()):
        gradient = actual.get(row["suggested_torch"].removeprefix("net."))
        if gradient is not None:
            value = gradient.numpy()
            named[row["flax"].removeprefix("net/")] = value.T if row["transform"] == "T" else value
    return named


def test_whole_gradients_are_the_official_ones() -> None:
    g, net = golden(), network(student_forms()).requires_grad_(True)
    loss_of(net, adaptive=True)[0].backward()
    actual = gradients(net)
    whole = {
        name.removeprefix("grad_full__").replace("__", "/"): value
        for name, value in g.items()
        if name.startswith("grad_full__")
    }
    assert len(whole) == 5
    for name, value in whole.items():
        error = np.abs(actual[name] - value).max() / np.abs(value).max()
        assert error <= GRADIENT_REL, name


def drawn(
    batch: int = 20_000,
    num_plain: int = 10_000,
    level: tuple[float, float] = (0.8, 0.8),
    longest_step: float = 1.0,
    equal_share: float = 0.0,
) -> StepConditions:
    return draw_conditions(
        batch,
        torch.Generator().manual_seed(1),
        plain=torch.arange(batch) < num_plain,
        level=level,
        longest_step=longest_step,
        equal_steps=4,
        equal_share=equal_share,
        omega=(1.0, 13.0),
        t_min=(0.0, 0.5),
        t_max=(0.5, 1.0),
    )


def test_plain_images_have_one_level_and_guidance_everywhere() -> None:
    conditions = drawn()
    assert torch.equal(conditions.t[:10_000], conditions.r[:10_000])
    assert not conditions.t_min[:10_000].any() and (conditions.t_max[:10_000] == 1).all()
    logit = torch.logit(conditions.t[:10_000].double())
    # Standard errors are 0.008 and 0.0057.
    assert logit.mean().item() == pytest.approx(0.8, abs=0.03)
    assert logit.std().item() == pytest.approx(0.8, abs=0.02)


def test_the_others_are_ordered_and_of_the_stated_laws() -> None:
    conditions = drawn().select(slice(10_000, None))
    assert (conditions.r < conditions.t).all()
    both = torch.logit(torch.cat([conditions.t, conditions.r]).double())
    assert both.mean().item() == pytest.approx(0.8, abs=0.03)
    assert both.std().item() == pytest.approx(0.8, abs=0.02)
    share = torch.log(conditions.omega) / np.log(13.0)
    for name, value, low, high in (
        ("omega", share, 0.0, 1.0),
        ("t_min", conditions.t_min, 0.0, 0.5),
        ("t_max", conditions.t_max, 0.5, 1.0),
    ):
        ordered = np.sort(value.numpy())
        expected = np.linspace(low, high, len(ordered))
        # Kolmogorov's distance; its 99.9% point is 0.0195 of the range.
        assert np.abs(ordered - expected).max() < 0.0195 * (high - low), name


def test_another_law_of_levels() -> None:
    logit = torch.logit(drawn(level=(-0.2, 1.5)).t[:10_000].double())
    # Standard errors are 0.015 and 0.011.
    assert logit.mean().item() == pytest.approx(-0.2, abs=0.05)
    assert logit.std().item() == pytest.approx(1.5, abs=0.04)


def test_longer_steps_are_shortened_and_no_others() -> None:
    free, bound = drawn(), drawn(longest_step=0.25)
    steps = free.t - free.r
    assert (steps > 0.25).any()
    assert torch.equal(free.t, bound.t)
    assert torch.equal(bound.t - bound.r <= 0.25 + 1e-6, torch.ones(20_000, dtype=torch.bool))
    assert torch.equal(bound.r[steps <= 0.25], free.r[steps <= 0.25])
    assert torch.allclose((bound.t - bound.r)[steps > 0.25], torch.tensor(0.25), atol=1e-6)


def test_a_share_of_the_steps_are_those_of_equal_length() -> None:
    free, mixed = drawn(), drawn(equal_share=0.3)
    plain, rest = slice(None, 10_000), slice(10_000, None)
    assert torch.equal(mixed.t[plain], free.t[plain]) and torch.equal(
        mixed.r[plain], mixed.t[plain]
    )
    moved = mixed.t[rest] != free.t[rest]
    # The standard error is 0.0046.
    assert moved.double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(mixed.r[rest][~moved], free.r[rest][~moved])
    ends = torch.stack([mixed.t[rest][moved], mixed.r[rest][moved]])
    assert {tuple(pair) for pair in ends.T.tolist()} == {
        (1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)
    }  # fmt: skip
    counts = torch.bincount((ends[0] * 4).long())[1:] / moved.sum()
    assert (counts - 0.25).abs().max() < 0.03


def test_narrow_ranges_are_kept() -> None:
    conditions = draw_conditions(
        64,
        torch.Generator().manual_seed(0),
        plain=torch.zeros(64, dtype=torch.bool),
        level=(0.8, 0.8),
        longest_step=1.0,
        equal_steps=4,
        equal_share=0.0,
        omega=(3.0, 3.0),
        t_min=(0.2, 0.2),
        t_max=(0.8, 0.9),
    )
    assert (conditions.omega == 3).all() and (conditions.t_min == 0.2).all()
    assert 0.8 <= conditions.t_max.min() and conditions.t_max.max() <= 0.9


def test_guidance_counts_inside_the_interval_alone() -> None:
    z = torch.ones(3, 3, 2, 2)
    conditions = StepConditions(
        t=torch.tensor([0.5, 0.5, 0.02]),
        r=torch.zeros(3),
        omega=torch.full((3,), 4.0),
        t_min=torch.tensor([0.5, 0.6, 0.0]),
        t_max=torch.tensor([0.5, 1.0, 1.0]),
    )

    def teacher(x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        return mask[:, :1, None, None] * torch.ones_like(x)

    v = teacher_velocity(teacher, z, torch.zeros(3, 2, 1), torch.ones(3, 2), conditions)
    # x0 is 1 with the caption and 0 without: inside the interval the mix is 4, outside 1.
    assert v[:, 0, 0, 0].tolist() == pytest.approx([(1 - 4) / 0.5, 0.0, (1 - 4) / 0.05])
