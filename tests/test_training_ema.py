"""The moving average against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from minit2i_deploy.training.ema import EMA


def closed_form(values: list[float], decays: list[float]) -> float:
    """Sum of values, each weighted by its share and by the decays that came after it."""
    shares = [1.0, *(1 - decay for decay in decays)]
    later = np.append(np.cumprod(decays[::-1])[::-1], 1.0)
    return float(np.dot(np.multiply(shares, later), values))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_average_is_the_closed_form(decay: float) -> None:
    values = [3.0, -1.0, 2.0, 0.5, 7.0, 7.0]
    parameter = nn.Parameter(torch.tensor([values[0]]))
    ema = EMA({"w": parameter}, decay)
    for step, value in enumerate(values[1:], start=1):
        parameter.data.fill_(value)
        ema.update({"w": parameter}, step)
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(1, 6)]
    # Measured 7.3e-9.
    assert ema.tensors["w"].item() == pytest.approx(closed_form(values, decays), rel=1e-6)


def test_the_given_decay_holds_after_the_warm_up() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    ema = EMA({"w": parameter}, 0.999)
    parameter.data.fill_(1.0)
    ema.update({"w": parameter}, 1_000_000)
    assert ema.tensors["w"].item() == pytest.approx(0.001, rel=1e-6)  # measured 4.7e-8


def test_averages_are_float32_and_the_parameters_stay() -> None:
    parameter = nn.Parameter(torch.full((2,), 3.0, dtype=torch.bfloat16))
    ema = EMA({"w": parameter}, 0.9)
    ema.update({"w": parameter}, 1)
    assert ema.tensors["w"].dtype == torch.float32
    assert ema.tensors["w"].data_ptr() != parameter.data_ptr()
    assert parameter.tolist() == [3.0, 3.0]


def test_saved_averages_are_taken_up() -> None:
    ema = EMA({"w": nn.Parameter(torch.zeros(2))}, 0.9)
    ema.load({"w": torch.tensor([1.0, 2.0])})
    assert ema.tensors["w"].tolist() == [1.0, 2.0]
    with pytest.raises(KeyError):
        ema.load({})
