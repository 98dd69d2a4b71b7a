"""Trajectories of the unquantised step graph, and how far another version of it strays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality import image_metrics
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.model_graph import Session
from minit2i_deploy.request import Request
from minit2i_deploy.solvers.row import GRAPH_COLUMNS, Row
from minit2i_deploy.solvers.table import Table

State = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """How far final states are from the reference's: the means over the pictures.

    Args:
        error: Euclidean norm of the difference over that of the reference.
        psnr_db: of the pictures, decibels; infinite where one is equal.
    """

    error: float
    psnr_db: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain values, ready for JSON; an infinite PSNR is None."""
        psnr_db = self.psnr_db if math.isfinite(self.psnr_db) else None
        return {"error": self.error, "psnr_db": psnr_db}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reference:
    """Several pictures painted by the unquantised step graph.

    Args:
        step: that graph.
        table: rows of the trajectory.
        guidance: its scale.
        tokens: float32 [branches, batch, tokens, hidden].
        states: (x, h) before each row, and after the last; float32 [batch, 3, H, W] each.
    """

    step: Session
    table: Table
    guidance: float
    tokens: Float32[np.ndarray, "branches batch tokens hidden"]
    states: tuple[State, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Rows of the table at the reference's guidance."""
        return self.table.steps(self.guidance)

    def run(self, step: Session, state: State, rows: Sequence[Row]) -> State:
        """The state after some rows of the table."""
        for row in rows:
            x, h = step(self._inputs(state, row))
            state = x, h
        return state

    def estimate(self, step: Session, index: int) -> Float32[np.ndarray, "batch 3 height width"]:
        """The guided estimate of the clean image from the reference's state before a row."""
        row = self.rows[index]
        # x' = y: all else of the row stays, as bound and rescale belong to the estimate.
        values = row.values.copy()
        values[[GRAPH_COLUMNS.index(name) for name in "abcs"]] = (0.0, 1.0, 0.0, 0.0)
        return step(self._inputs(self.states[index], dataclasses.replace(row, values=values)))[0]

    def drift(self, x: Float32[np.ndarray, "batch 3 height width"]) -> Drift:
        """How far final states are from these pictures'."""
        wanted = self.states[-1][0]
        psnr = image_metrics.psnr(np.asarray(x), wanted)
        error = l2_relative_errors(np.asarray(x), wanted)
        return Drift(error=float(error.mean()), psnr_db=float(psnr.mean()))

    def _inputs(self, state: State, row: Row) -> dict[str, np.ndarray]:
        tokens = np.ascontiguousarray(self.tokens[: len(row.weights)])
        x, h = state
        return {"x": x, "h": h, "tokens": tokens, "weights": row.weights, "row": row.values}


def paint_reference(
    bundle: Bundle,
    step: Session,
    prompts: Sequence[str],
    seeds: Sequence[int],
    table: Table,
    guidance: float,
) -> Reference:
    """Paint the pictures that everything is measured on, as one batch.

    Args:
        bundle: gives text encoder, text adapter, sizes and noise.
        step: the unquantised step graph.
        prompts: one a picture.
        seeds: of the start noise, one a picture.
        table: solver without fresh noise.
        guidance: its scale.

    Raises:
        UsageError: the table draws fresh noise.
        RuntimeFailure: the engine failed.
    """
    if table.column("n").any():
        raise UsageError(f"table {table.name} is stochastic; measure sensitivity on another one")
    request = Request.of(bundle, prompts, seed=seeds, table=table, guidance=guidance)
    with GraphsRuntime(bundle) as runtime:
        tokens = request.tokens(bundle, runtime)
    x = request.start(bundle)
    reference = Reference(
        step=step, table=table, guidance=guidance, tokens=tokens, states=((x, np.zeros_like(x)),)
    )
    states = list(reference.states)
    for row in reference.rows:
        states.append(reference.run(step, states[-1], [row]))
    return Reference(step=step, table=table, guidance=guidance, tokens=tokens, states=tuple(states))
