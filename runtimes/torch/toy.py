"""A toy of ten steps in PyTorch, which shows whether a device works."""

from __future__ import annotations

import torch

from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.runtimes.toy_graph import TOY_STEPS, toy_arrays, toy_error


def run_toy(device: str) -> float:
    """Multiply a state with a matrix ten times.

    Args:
        device: a torch device, for example "cpu".

    Returns:
        largest difference from numpy, relative to the largest value.

    Raises:
        RuntimeFailure: the device is not there, or its values are wrong.
    """
    try:
        state, turn = (torch.from_numpy(array).to(device) for array in toy_arrays())
        for _ in range(TOY_STEPS):
            state = state @ turn
        result = state.cpu().numpy()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RuntimeFailure(f"torch has no device {device}: {reason}") from error
    return toy_error(f"torch on {device}", result)
