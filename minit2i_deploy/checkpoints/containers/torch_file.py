"""Files of torch.save as a container, read without running code from the pickle."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minit2i_deploy.checkpoints.containers.container import Leaf
from minit2i_deploy.errors import CheckpointError, require


class StateDict:
    """A container over a torch state dict; tensors of a mapped file are read on use."""

    def __init__(self, tensors: Mapping[str, Any], where: str) -> None:
        torch = require("torch", "train")
        self._float32 = torch.float32
        for name, value in tensors.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise CheckpointError(
                    f"{where}: {name!r} is {type(value).__name__}, expected a tensor under a "
                    "name; give the file as the official code saved it"
                )
            if value.layout != torch.strided or value.device.type != "cpu":
                raise CheckpointError(
                    f"{where}: {name} is a {value.layout} tensor on {value.device}, expected a "
                    "dense one on cpu; save the weights dense"
                )
        self._tensors = tensors

    @property
    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def leaf(self, name: str) -> Leaf:
        value = self._tensors[name]
        return Leaf(tuple(value.shape), str(value.dtype).removeprefix("torch."))

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        for name in names:
            yield name, self._tensors[name].detach().to(self._float32).numpy()


def load_torch_file(path: Path) -> dict[str, Any]:
    """The dictionary in a file of torch.save, its tensors mapped from disk.

    Raises:
        CheckpointError: the file is corrupt, would run code, or does not hold a dictionary.
        MissingDependencyError: torch is not installed.
    """
    torch = require("torch", "train")
    try:
        # Mapped: of a training state, only the tensors that are read take memory.
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: its pickle holds more than tensors and plain values "
            f"({_reason(error)}); refused, because opening it could run code"
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a complete file of torch.save ({_reason(error)}); "
            "download or copy it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path}: holds {type(value).__name__}, expected a dictionary with the official "
            "code's keys"
        )
    return value


def count_tensors(value: object) -> int:
    """Tensors in nested dictionaries and lists."""
    if isinstance(value, dict):
        return sum(count_tensors(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(count_tensors(item) for item in value)
    return int(isinstance(value, require("torch", "train").Tensor))


def _reason(error: Exception) -> str:
    """The line of torch's long message that names what it refused."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (named or lines or [type(error).__name__])[0][:200]
