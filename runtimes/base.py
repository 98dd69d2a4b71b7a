"""What every runtime shares: it is opened once, closed once, and closes on leaving ``with``."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import RuntimeFailure, UsageError


class ClosableRuntime:
    """Base of the runtimes: ``with`` support and a clear error after ``close``."""

    name: str
    _open = True

    def close(self) -> None:
        """Free the engine's memory. Closing twice is allowed."""
        if self._open:
            self._open = False
            self._free()

    def _free(self) -> None:
        """Drop the engine's objects."""

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeFailure(f"runtime {self.name} is closed; open it again")

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_conditions(config: ModelConfig, conditions: np.ndarray | None) -> None:
    """Refuse conditions for a base model, and a student without them.

    Raises:
        UsageError: one of the two.
    """
    if (config.student is None) != (conditions is None):
        came, wanted = ("came", "a base model") if config.student is None else ("miss", "a student")
        raise UsageError(f"conditions {came} for {wanted}; only a few-step student takes them")
