"""`Container`: named arrays in a file or folder, their shapes known before their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Leaf:
    """Shape and numpy type name of a stored array."""

    shape: tuple[int, ...]
    dtype: str


class Container(Protocol):
    """Named arrays in a file or folder.

    ``read`` yields them one by one, so that a reader need not hold the source's copy of a model
    beside its own. bfloat16 comes as ml_dtypes' type or, from torch, already widened to float32.
    """

    @property
    def names(self) -> Sequence[str]:
        """Names of all arrays; parts of nested names are joined with "/"."""
        ...

    def leaf(self, name: str) -> Leaf:
        """Shape and stored type of one array."""
        ...

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of these names, in any order, each once."""
        ...


class StateContainer(Container, Protocol):
    """A container that holds a training state."""

    def step(self) -> int | None:
        """The leaf "step", if there is one."""
        ...
