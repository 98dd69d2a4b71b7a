"""The moving average against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from minit2i_deploy.training.optim.ema import EMA, ema_decay_at
from tests.helpers.training_runs import tiny_recipe


def closed_form(values: list[float], decays: list[float]) -> float:
    """Sum of values, each weighted by its share and by the decays that came after it."""
    shares = [1.0, *(1 - decay for decay in decays)]
    later = np.append(np.cumprod(decays[::-1])[::-1], 1.0)
    return float(np.dot(np.multiply(shares, later), values))


RECIPES = {
    "none": {"ema_decay": 0.0},
    "half": {"ema_decay": 0.5},
    "warmed up": {"ema_decay": 0.999},
    "half-life": {"ema_halflife_kimg": 0.01, "ema_rampup": 0.7},
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES)
def test_average_is_the_closed_form(changes: dict[str, float]) -> None:
    recipe = tiny_recipe(**changes)
    values = [3.0, -1.0, 2.0, 0.5, 7.0, 7.0]
    parameter = nn.Parameter(torch.tensor([values[0]]))
    ema = EMA({"w": parameter})
    for step, value in enumerate(values[1:], start=1):
        parameter.data.fill_(value)
        ema.update({"w": parameter}, ema_decay_at(recipe, step))
    if "ema_decay" in changes:
        decays = [min(changes["ema_decay"], (1 + step) / (10 + step)) for step in range(1, 6)]
    else:
        # Batches of 4: the half-life is 2.8, 5.6, 8.4, then 10 pictures.
        decays = [2 ** (-4 / halflife) for halflife in (2.8, 5.6, 8.4, 10.0, 10.0)]
    # Measured 7.3e-9.
    assert ema.tensors["w"].item() == pytest.approx(closed_form(values, decays), rel=1e-6)


def test_the_given_decay_holds_after_the_warm_up() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    ema = EMA({"w": parameter})
    parameter.data.fill_(1.0)
    ema.update({"w": parameter}, ema_decay_at(tiny_recipe(ema_decay=0.999), 1_000_000))
    assert ema.tensors["w"].item() == pytest.approx(0.001, rel=1e-6)  # measured 4.7e-8


def test_half_of_the_average_is_older_than_the_half_life() -> None:
    recipe = tiny_recipe(batch=500, ema_halflife_kimg=100.0, ema_rampup=0.05)
    late = [ema_decay_at(recipe, step) for step in range(10_000, 10_200)]
    # 200 steps of 500 pictures are the half-life.
    assert np.prod(late) == pytest.approx(0.5, rel=1e-12)
    # Before that the half-life is 5% of the pictures seen: a step in 100 after 2000 steps.
    assert ema_decay_at(recipe, 2000) == pytest.approx(0.5 ** (1 / 100), rel=1e-12)


def test_averages_are_float32_and_the_parameters_stay() -> None:
    parameter = nn.Parameter(torch.full((2,), 3.0, dtype=torch.bfloat16))
    ema = EMA({"w": parameter})
    ema.update({"w": parameter}, 0.9)
    assert ema.tensors["w"].dtype == torch.float32
    assert ema.tensors["w"].data_ptr() != parameter.data_ptr()
    assert parameter.tolist() == [3.0, 3.0]


def test_saved_averages_are_taken_up() -> None:
    ema = EMA({"w": nn.Parameter(torch.zeros(2))})
    ema.load({"w": torch.tensor([1.0, 2.0])})
    assert ema.tensors["w"].tolist() == [1.0, 2.0]
    with pytest.raises(KeyError):
        ema.load({})
