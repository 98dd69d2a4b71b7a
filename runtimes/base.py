"""What every runtime shares: it is opened once, closed once, and closes on leaving ``with``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import RuntimeFailure, UsageError

# Nine common tokens and the end: a T5 in too small a number type overflows at most inputs.
_PROBE: Final = np.array([[3, 4, 5, 6, 7, 8, 9, 10, 11, 1]], dtype=np.int64)


class ClosableRuntime:
    """Base of the runtimes: ``with`` support and a clear error after ``close``."""

    name: str
    _open = True

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self._open

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


class GraphRuntime(ClosableRuntime, ABC):
    """Base of the runtimes that run a bundle's graphs as they are, each through ``_run``."""

    bundle: Bundle
    _encoder_is_checked = False

    @abstractmethod
    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        """First output of a graph on the engine."""

    def encode(
        self,
        input_ids: Int64[np.ndarray, "n tokens"],
        attention_mask: Int64[np.ndarray, "n tokens"],
    ) -> Float32[np.ndarray, "n tokens width"]:
        """Run the text encoder; arguments and result as in ``protocol.Runtime``."""
        if not self._encoder_is_checked:
            check_encoder(self.bundle.path, self.name, self._encode)
            self._encoder_is_checked = True
        return self._encode(input_ids, attention_mask)

    def _encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self._run("text_encoder", input_ids=ids, attention_mask=mask)

    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """Run the text adapter; arguments and result as in ``protocol.Runtime``."""
        check_conditions(self.bundle.config, conditions)
        told = {} if conditions is None else {"conditions": conditions}
        return self._run("text_adapter", context=context, mask=mask, **told)


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
