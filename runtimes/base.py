"""Base classes of the runtimes: what a class declares, opening and closing, graphs by name."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.runtimes.guard import Guard, guarded

# Nine common tokens and the end: a T5 in too small a number type overflows at most inputs.
_PROBE: Final = np.array([[3, 4, 5, 6, 7, 8, 9, 10, 11, 1]], dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeOption:
    """A keyword of a runtime's constructor.

    Args:
        name: of the keyword.
        annotation: its type, as the signature says it.
        default: its value where none is given.
    """

    name: str
    annotation: str
    default: object

    def __str__(self) -> str:
        return f"{self.name}: {self.annotation} = {self.default!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfTest:
    """A runtime on one of its devices, tried on a toy of ten steps, without a bundle.

    Args:
        label: tells it from the others, for example ``onnxruntime:cuda``.
        options: for the runtime to run a bundle in the same way.
        run: gives the toy's relative error, or raises MissingDependencyError or RuntimeFailure.
        int8_saturates: whether 8-bit products are wrong on this processor (``int8_probe``); None
            where the question does not arise.
    """

    label: str
    options: Mapping[str, object]
    run: Callable[[], float]
    int8_saturates: Callable[[], bool] | None = None


class BaseRuntime(Runtime):
    """What all runtimes share: declarations, a guard, ``with`` support.

    A subclass takes a bundle and keyword options, and has ``encode``, ``adapt`` and ``start`` of
    ``protocol.Runtime``, each under ``@guarded``. What the package asks of a runtime beside them
    stands in its class attributes and in its constructor's signature, so that no other module
    knows a runtime by name.

    Args:
        bundle: an open bundle.
    """

    # Whether a bundle with another step graph from a switch time on may be opened as two of these.
    switches_step_graph: ClassVar[bool] = False

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._guard = Guard(self.name, self)

    @classmethod
    def options(cls) -> dict[str, RuntimeOption]:
        """Keywords of the constructor, by name."""
        parameters = inspect.signature(cls).parameters.values()
        return {
            item.name: RuntimeOption(
                name=item.name, annotation=str(item.annotation), default=item.default
            )
            for item in parameters
            if item.kind is inspect.Parameter.KEYWORD_ONLY
        }

    @classmethod
    def self_tests(cls) -> list[SelfTest]:
        """What ``minit2i doctor`` tries; each names what to install where something is missing."""
        return []

    def runs_precision(self, precision: str) -> bool:
        """Whether the engine has kernels for graphs of this precision of the manifest."""
        return True

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self._guard.is_open

    def close(self) -> None:
        """Free the engine's memory. Closing twice is allowed."""
        self._guard.close(self._free)

    def _free(self) -> None:
        """Drop the engine's objects."""

    def __enter__(self) -> Self:
        self._guard.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self.is_open else ", closed"
        return f"<{type(self).__name__} of {self.bundle.path}{state}>"


class GraphRuntime(BaseRuntime, ABC):
    """Base of the runtimes that run a bundle's graphs as they are, each through ``_run``."""

    _encoder_is_checked = False

    @abstractmethod
    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        """First output of a graph on the engine."""

    @guarded
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

    @guarded
    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """Run the text adapter; arguments and result as in ``protocol.Runtime``."""
        check_conditions(self.bundle.config, conditions)
        further = {} if conditions is None else {"conditions": conditions}
        return self._run("text_adapter", context=context, mask=mask, **further)


def check_encoder(
    path: Path, engine: str, encode: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    """Encode a fixed text once: T5 overflows in half precision, and makes the image NaN.

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
    """Refuse conditions for a base model, and a few-step student without them.

    Raises:
        UsageError: one of the two.
    """
    if config.student is None and conditions is not None:
        raise UsageError("a base model takes no conditions; they are for few-step students")
    if config.student is not None and conditions is None:
        raise UsageError("a few-step student needs conditions, got none")
