"""Where a run computes."""

from __future__ import annotations

import torch

from minit2i_deploy.errors import TrainingError


def pick_device(name: str) -> torch.device:
    """The device of a recipe's "auto", "cpu" or "cuda".

    Raises:
        TrainingError: "cuda" was asked for and torch finds no such device.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise TrainingError(
            f"device is 'cuda', but torch {torch.__version__} finds no CUDA device here; set "
            "device=cpu or install a CUDA build of torch"
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")
