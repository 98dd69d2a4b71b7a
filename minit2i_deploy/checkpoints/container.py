"""What the file formats have in common: named arrays, their shapes known before their values."""

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

    ``read`` hands them out one by one, so that a reader never holds the source's copy of a whole
    model beside its own where the format allows that. bfloat16 comes as ml_dtypes' type or, from
    torch, already widened to float32.
    """

    @property
    def names(self) -> Sequence[str]:
        """Names of all arrays; parts of nested names are joined with "/"."""
        ...

    def leaf(self, name: str) -> Leaf:
        """Shape and stored type of one array."""
        ...

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays asked for, in any order, each once."""
        ...


class StateContainer(Container, Protocol):
    """A container that is a whole training state."""

    def step(self) -> int | None:
        """The leaf "step", if there is one."""
        ...
