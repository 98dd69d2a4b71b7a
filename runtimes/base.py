"""What every runtime shares: it is opened once, closed once, and closes on leaving ``with``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import RuntimeFailure, UsageError

# Nine common tokens and the end: a T5 in too small a number type overflows at most inputs.
_PROBE: Final = np.array([[3, 4, 5, 6, 7, 8, 9, 10, 11, 1]], dtype=np.int64)


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


def check_encoder(
    path: Path, engine: str, encode: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    """Encode a fixed text once: half precision overflows in T5, and all that follows would be NaN.

    Args:
        path: of the bundle, for the error.
        engine: name of the runtime.
        encode: int64 ids [1, n] and mask [1, n] to float32 [1, n, width].

    Raises:
        RuntimeFailure: a value is NaN or infinite.
    """
    values = encode(_PROBE, np.ones_like(_PROBE))
    if not np.isfinite(values).all():
        raise RuntimeFailure(
            f"{path}: the text encoder gives NaN or infinity on {engine}; its numbers overflow, so"
            " re-run minit2i export, which keeps it fp32, or choose an engine that computes in fp32"
        )


def check_conditions(config: ModelConfig, conditions: np.ndarray | None) -> None:
    """Refuse conditions for a base model, and a student without them.

    Raises:
        UsageError: one of the two.
    """
    if (config.student is None) != (conditions is None):
        came, wanted = ("came", "a base model") if config.student is None else ("miss", "a student")
        raise UsageError(f"conditions {came} for {wanted}; only a few-step student takes them")
