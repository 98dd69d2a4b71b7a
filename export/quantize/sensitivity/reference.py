"""Trajectories of the unquantised step graph, and how far another version of it strays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality import metrics
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.model_graph import Session
from minit2i_deploy.request import Request
from minit2i_deploy.solvers.table import GRAPH_COLUMNS, Table, guidance_weights, step_row

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

    def run(self, step: Session, state: State, begin: int, end: int) -> State:
        """The state after rows ``begin`` to ``end``, the latter left out."""
        for index in range(begin, end):
            row = step_row(self.table, index)
            x, h = step(self._inputs(state, index, row))
            state = x, h
        return state

    def estimate(self, step: Session, index: int) -> Float32[np.ndarray, "batch 3 height width"]:
        """The guided estimate of the clean image from the reference's state before a row."""
        row = step_row(self.table, index)
        # x' = y: all else of the row stays, as bound and rescale belong to the estimate.
        row[[GRAPH_COLUMNS.index(name) for name in "abcs"]] = (0.0, 1.0, 0.0, 0.0)
        return step(self._inputs(self.states[index], index, row))[0]

    def drift(self, x: Float32[np.ndarray, "batch 3 height width"]) -> Drift:
        """How far final states are from these pictures'."""
        wanted = self.states[-1][0]
        psnr = metrics.psnr(np.asarray(x), wanted)
        return Drift(error=relative_error(x, wanted), psnr_db=float(psnr.mean()))

    def _inputs(self, state: State, index: int, row: np.ndarray) -> dict[str, np.ndarray]:
        weights = guidance_weights(self.table, index, self.guidance)
        tokens = np.ascontiguousarray(self.tokens[: len(weights)])
        x, h = state
        return {"x": x, "h": h, "tokens": tokens, "weights": weights, "row": row}


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
    for index in range(len(table)):
        states.append(reference.run(step, states[-1], index, index + 1))
    return Reference(step=step, table=table, guidance=guidance, tokens=tokens, states=tuple(states))


def relative_error(
    found: Float32[np.ndarray, "batch 3 height width"],
    wanted: Float32[np.ndarray, "batch 3 height width"],
) -> float:
    """|found - wanted| / |wanted| by Euclidean norm, the mean over the pictures."""
    return float(metrics.relative_errors(found, wanted).mean())
