"""The network from every base checkpoint form against the official outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.model import build_network
from tests.helpers.checkpoint_forms import arrays, base_forms

# Measured 1.7e-6 with the EMA, 1.8e-6 online, on outputs up to 3.9.
MAX_ABS_ERROR = 1e-5


def forward(path: Path, arguments: dict[str, Any], mask: np.ndarray) -> np.ndarray:
    """x0 as [batch, height, width, channels], the layout of the golden arrays."""
    golden = arrays("forward")
    net = build_network(load_checkpoint(path, **arguments))
    x = torch.from_numpy(np.ascontiguousarray(golden["img"].transpose(0, 3, 1, 2)))
    with torch.inference_mode():
        x0 = net(x, torch.from_numpy(golden["context"]), torch.from_numpy(mask))
    return np.asarray(x0.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("form", sorted(base_forms()))
def test_deployed_weights(form: str) -> None:
    golden = arrays("forward")
    path, arguments = base_forms()[form]
    error = np.abs(forward(path, arguments, golden["mask"]) - golden["out_ema"])
    assert error.max() <= MAX_ABS_ERROR


@pytest.mark.parametrize("form", ["torch-training", "flax-msgpack", "flax-orbax"])
def test_online_weights(form: str) -> None:
    golden = arrays("forward")
    path, arguments = base_forms()[form]
    out = forward(path, {**arguments, "ema": False}, golden["mask"])
    assert np.abs(out - golden["out_online"]).max() <= MAX_ABS_ERROR
    assert np.abs(out - golden["out_ema"]).max() > 1


def test_unconditional_branch_is_a_mask_of_zeros() -> None:
    golden = arrays("forward")
    path, arguments = base_forms()["huggingface"]
    out = forward(path, arguments, np.zeros_like(golden["mask"]))
    assert np.abs(out - golden["out_ema_nullmask"]).max() <= MAX_ABS_ERROR
    assert np.abs(out - golden["out_ema"]).max() > 0.1
