"""A bundle's graphs in onnxruntime on the CPU, any of them replaced by a version in memory.

A minimal runtime for calibration and for measuring graphs that are not in a bundle yet. Programs
that generate images take ``minit2i_deploy.runtimes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.export.quantize.graph.float32_graph import in_float32
from minit2i_deploy.export.quantize.graph.model_graph import Graph, Session, read_graph
from minit2i_deploy.solvers.row import Known, Row
from minit2i_deploy.solvers.step_inputs import StepInputs


class GraphsRuntime:
    """The three graphs in float32 arithmetic; sessions are opened on first use.

    Args:
        bundle: whose graphs they are.
        graphs: replacements by the names of the manifest.
        threads: of onnxruntime; 0 takes one per core.
    """

    name = "onnxruntime"

    def __init__(
        self, bundle: Bundle, graphs: Mapping[str, Graph] | None = None, *, threads: int = 0
    ) -> None:
        self.bundle = bundle
        self._graphs = dict(graphs or {})
        self._threads = threads
        self._sessions: dict[str, Session] = {}

    @property
    def replaced(self) -> frozenset[str]:
        """Names of the replaced graphs."""
        return frozenset(self._graphs)

    def session(self, graph: str) -> Session:
        """The session of a graph, by its name in the manifest."""
        if graph not in self._sessions:
            version = self._graphs.get(graph) or read_graph(self.bundle.graph_path(graph))
            self._sessions[graph] = Session(in_float32(version), threads=self._threads)
        return self._sessions[graph]

    def encode(
        self,
        input_ids: Int64[np.ndarray, "n tokens"],
        attention_mask: Int64[np.ndarray, "n tokens"],
    ) -> Float32[np.ndarray, "n tokens width"]:
        """As in ``protocol.Runtime``."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.session("text_encoder")(inputs)[0]

    def adapt(
        self,
        context: Float32[np.ndarray, "n length width"],
        mask: Int64[np.ndarray, "n length"],
        conditions: Float32[np.ndarray, "n 4"] | None = None,
    ) -> Float32[np.ndarray, "n adapted hidden"]:
        """As in ``protocol.Runtime``."""
        inputs = {"context": context, "mask": mask}
        if conditions is not None:
            inputs["conditions"] = conditions
        return self.session("text_adapter")(inputs)[0]

    def start(
        self,
        x: Float32[np.ndarray, "batch 3 height width"],
        tokens: Float32[np.ndarray, "branches batch adapted hidden"],
        known: Known | None = None,
    ) -> GraphTrajectory:
        """As in ``protocol.Runtime``."""
        per_image = self.bundle.manifest.can_edit
        inputs = StepInputs(image_shape=x.shape, tokens=tokens, known=known, per_image=per_image)
        return GraphTrajectory(self.session("transformer"), x, inputs)

    def close(self) -> None:
        """Drop the sessions; they are opened again on the next use."""
        self._sessions.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class GraphTrajectory:
    """The state of one batch, as in ``protocol.Trajectory``."""

    def __init__(self, session: Session, x: np.ndarray, inputs: StepInputs) -> None:
        self._session, self._inputs = session, inputs
        self._x, self._h = x, np.zeros_like(x)

    def inputs(self, row: Row) -> dict[str, np.ndarray]:
        """Inputs of the step graph for a row from this state."""
        fixed, of_row = self._inputs.fixed(len(row.weights)), self._inputs.of_row(row)
        return {"x": self._x, "h": self._h} | fixed | of_row

    def step(
        self, row: Row, noise: Float32[np.ndarray, "batch 3 height width"] | None = None
    ) -> None:
        """As in ``protocol.Trajectory``."""
        if noise is not None:
            self._h = noise
        self._x, self._h = self._session(self.inputs(row))

    def state(
        self,
    ) -> tuple[
        Float32[np.ndarray, "batch 3 height width"], Float32[np.ndarray, "batch 3 height width"]
    ]:
        """Copies of x and h."""
        return self._x.copy(), self._h.copy()
