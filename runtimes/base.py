"""Base classes of the runtimes: what a class declares, opening and closing, graphs by name."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Final, Self

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.evaluation import reference_outputs
from minit2i_deploy.protocol import Runtime, Trajectory
from minit2i_deploy.runtimes.guard import Guard, guarded
from minit2i_deploy.solvers.row import GRAPH_COLUMNS, Known, Row, advance
from minit2i_deploy.solvers.step_inputs import (
    CANNOT_EDIT,
    ImageStep,
    StepBatch,
    StepInputs,
)


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


# x' = y: the next state is then the guided estimate itself.
_ESTIMATE: Final = np.array([name == "b" for name in GRAPH_COLUMNS], np.float32)


class BaseRuntime(Runtime, ABC):
    """What all runtimes share: declarations, a guard, tests of a graph's first run, ``with``.

    A subclass takes a bundle and keyword options, and has ``_encode``, ``_adapt`` and ``_start``.
    What the package asks of a runtime beside them stands in its class attributes and in its
    constructor's signature, so that no other module knows a runtime by name.

    Args:
        bundle: an open bundle.
    """

    # Whether a bundle with another step graph from a switch time on may be opened as two of these.
    switches_step_graph: ClassVar[bool] = False
    # Whether its values are those of the bundle's network, to be compared with reference outputs.
    runs_network: ClassVar[bool] = True

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._guard = Guard(self.name, self)
        self._tested: set[str] = set()

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

    @abstractmethod
    def _encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """As ``encode``, without its tests."""

    def _stored(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
        """What ``_encode`` of these gave in an earlier process, or None; see ``_store``."""
        return None

    def _store(self, ids: np.ndarray, mask: np.ndarray, values: np.ndarray) -> None:
        """Keep what ``_encode`` gave for a later process; most runtimes keep nothing."""

    @abstractmethod
    def _adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None
    ) -> np.ndarray:
        """As ``adapt``, without its tests."""

    @abstractmethod
    def _start(self, x: np.ndarray, tokens: np.ndarray, known: Known | None = None) -> Trajectory:
        """As ``start``, without its tests."""

    def _step_batch(self, batch: StepBatch) -> tuple[np.ndarray, np.ndarray]:
        """As ``step_batch``: the network's estimates, mixed and advanced in numpy.

        It serves every runtime and both format versions; those with a step graph of version 2
        run that.
        """
        state = self._start(batch.x[batch.image], batch.tokens[None])
        state.step(Row(values=_ESTIMATE, weights=np.ones(1, np.float32)))
        x0 = state.state()[0][batch.sequence]
        return advance(batch.x, batch.h, x0, batch.weights, batch.row, batch.known)

    def _step_inputs(self, x: np.ndarray, tokens: np.ndarray, known: Known | None) -> StepInputs:
        """Inputs of the bundle's step graph for a batch whose images share their rows."""
        per_image = self.bundle.manifest.can_edit
        return StepInputs(image_shape=x.shape, tokens=tokens, known=known, per_image=per_image)

    @guarded
    def encode(
        self,
        input_ids: Int64[np.ndarray, "n tokens"],
        attention_mask: Int64[np.ndarray, "n tokens"],
    ) -> Float32[np.ndarray, "n tokens width"]:
        """Run the text encoder; arguments and result as in ``protocol.Runtime``."""
        stored = self._stored(input_ids, attention_mask)
        if stored is not None:
            return stored
        if "text_encoder" not in self._tested:
            self._test_encoder()
            self._tested.add("text_encoder")
        values = self._encode(input_ids, attention_mask)
        self._store(input_ids, attention_mask, values)
        return values

    @guarded
    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """Run the text adapter; arguments and result as in ``protocol.Runtime``."""
        check_conditions(self.bundle.config, conditions)
        if "text_adapter" not in self._tested and self._may_overflow("text_adapter"):
            adapted = self._adapt(*reference_outputs.adapter_inputs(self.bundle))
            self._require_reference("text_adapter", adapted)
            self._tested.add("text_adapter")
        return self._adapt(context, mask, conditions)

    @guarded
    def start(
        self,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
        known: Known | None = None,
    ) -> Trajectory:
        """Put a start state and tokens on the device; arguments as in ``protocol.Runtime``."""
        self._check_known(known)
        self._test_step_once(len(x), len(tokens))
        return self._start(x, tokens, known)

    @guarded
    def step_batch(
        self, images: Sequence[ImageStep]
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Step images at rows of their own; arguments as in ``protocol.BatchRuntime``."""
        batch = StepBatch.join(images)
        self._check_known(batch.known)
        self._test_step_once(*batch.sequence.shape[::-1])
        return self._step_batch(batch)

    def _check_known(self, known: Known | None) -> None:
        if known is not None and not self.bundle.manifest.can_edit:
            raise UsageError(f"{self.bundle.path}: {CANNOT_EDIT}")

    def _test_step_once(self, batch: int, branches: int) -> None:
        if "transformer" not in self._tested and self._may_overflow("transformer"):
            self._test_step(batch, branches)
            self._tested.add("transformer")

    def _may_overflow(self, graph: str) -> bool:
        precision = self.bundle.manifest.graphs[graph].precision
        return self.runs_network and precision in reference_outputs.OVERFLOWING

    def _test_encoder(self) -> None:
        """Encode a fixed text: T5 overflows in half precision, and makes the image NaN."""
        ids = reference_outputs.TEXT_IDS
        values = self._encode(ids, np.ones_like(ids))
        if not np.isfinite(values).all():
            raise RuntimeFailure(
                f"{self.bundle.path}: the text encoder gives NaN or infinity on {self.name}; its "
                "numbers overflow, so re-run minit2i export, which keeps it fp32, or choose an "
                "engine that computes in fp32"
            )
        if self.runs_network:
            self._require_reference("text_encoder", values)

    def _test_step(self, batch: int, branches: int) -> None:
        """One step from fixed inputs, of the sizes that are about to run."""
        adapted = self._adapt(*reference_outputs.adapter_inputs(self.bundle))
        x, tokens, row = reference_outputs.step_inputs(
            self.bundle, adapted, batch=batch, branches=branches
        )
        state = self._start(x, tokens)
        state.step(row)
        self._require_reference(
            "transformer", reference_outputs.patches(self.bundle, state.state()[0])
        )

    def _require_reference(self, graph: str, output: np.ndarray) -> None:
        reference_outputs.require_reference_output(self.bundle, graph, self.name, output)

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed."""
        return self._guard.is_open

    def close(self) -> None:
        """Free the engine's memory. Closing twice is allowed."""
        self._guard.close(self._free)

    def _free(self) -> None:
        """Drop the engine's objects."""

    def __del__(self) -> None:
        # One that was refused has no guard yet.
        if guard := self.__dict__.get("_guard"):
            guard.drop(self)

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


class GraphRuntime(BaseRuntime):
    """Base of the runtimes that run a bundle's graphs as they are, each through ``_run``."""

    @abstractmethod
    def _run(self, graph: str, **inputs: np.ndarray) -> np.ndarray:
        """First output of a graph on the engine."""

    @abstractmethod
    def _run_step(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Both outputs of the step graph on the engine: the next x and h."""

    def _step_batch(self, batch: StepBatch) -> tuple[np.ndarray, np.ndarray]:
        if not self.bundle.manifest.can_edit:
            return super()._step_batch(batch)
        return self._run_step(batch.inputs())

    def _encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return self._run("text_encoder", input_ids=ids, attention_mask=mask)

    def _adapt(
        self, context: np.ndarray, mask: np.ndarray, conditions: np.ndarray | None
    ) -> np.ndarray:
        further = {} if conditions is None else {"conditions": conditions}
        return self._run("text_adapter", context=context, mask=mask, **further)


def check_conditions(config: ModelConfig, conditions: np.ndarray | None) -> None:
    """Refuse conditions for a base model, and a few-step student without them.

    Raises:
        UsageError: one of the two.
    """
    if config.student is None and conditions is not None:
        raise UsageError("a base model takes no conditions; they are for few-step students")
    if config.student is not None and conditions is None:
        raise UsageError("a few-step student needs conditions, got none")
