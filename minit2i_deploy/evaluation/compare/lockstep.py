"""Run two bundles down one table in lockstep; B also steps from A's states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.evaluation.compare.contenders import Contender
from minit2i_deploy.evaluation.compare.prompt_cases import PromptCase
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.generate import Frame, frames
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.request import Request
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import Table


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowErrors:
    """Relative errors of B to A by Euclidean norm, one for each image.

    Args:
        tokens: float64 [batch], of the adapted tokens.
        estimate: float64 [rows, batch], of the guided estimate of the clean image, both from A's
            state before the row.
        step: float64 [rows, batch], of the state after the row, both from A's state before it.
        drift: float64 [rows, batch], of the state after the row, each on its own trajectory.
    """

    tokens: Float64[np.ndarray, " batch"]
    estimate: Float64[np.ndarray, "rows batch"]
    step: Float64[np.ndarray, "rows batch"]
    drift: Float64[np.ndarray, "rows batch"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LockstepResult:
    """Final states of one batch, float32 [batch, 3, H, W], and the errors of the rows."""

    x_a: Float32[np.ndarray, "batch 3 height width"]
    x_b: Float32[np.ndarray, "batch 3 height width"]
    row_errors: RowErrors | None


def run_lockstep(
    a: Contender,
    b: Contender,
    cases: Sequence[PromptCase],
    table: Table,
    guidance: float,
    *,
    details: bool,
    progress: Progress = no_progress,
) -> LockstepResult:
    """Generate one batch with both bundles.

    Args:
        a: the reference.
        b: what is compared with it.
        cases: prompts and seeds of the batch.
        table: solver, the same for both.
        guidance: scale of classifier-free guidance.
        details: measure every row, for which B takes every row twice.
        progress: called after each row.

    Raises:
        RuntimeFailure: an engine failed, or gave NaN or infinity.
    """
    prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
    request = Request.of(a.bundle, prompts, seed=seeds, table=table, guidance=guidance)
    forcing = _TeacherForcing(a, b, request) if details else None
    trajectories = [frames(side.bundle, side.runtime, request) for side in (a, b)]
    states: list[np.ndarray] = []
    for pair in zip(*trajectories, strict=True):
        if forcing is not None:
            forcing.compare(*pair)
        progress((pair[0].index + 1) / len(table))
        states = [frame.x() for frame in pair] if pair[0].index + 1 == len(table) else []
    for x, side in zip(states, (a, b), strict=True):
        check_finite(x, side)
    row_errors = None if forcing is None else forcing.row_errors()
    return LockstepResult(x_a=states[0], x_b=states[1], row_errors=row_errors)


class _TeacherForcing:
    """Stores A's state before each row and lets B take the row from it."""

    def __init__(self, a: Contender, b: Contender, request: Request) -> None:
        self.a, self.b, self.request = a, b, request
        first, self.tokens = (request.tokens(side.bundle, side.runtime) for side in (a, b))
        self.tokens_error = l2_relative_errors(
            np.swapaxes(self.tokens, 0, 1), np.swapaxes(first, 0, 1)
        )
        self.x = request.start(a.bundle)
        self.h = np.zeros_like(self.x)
        self.errors: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def compare(self, frame_a: Frame, frame_b: Frame) -> None:
        """Measure one row."""
        x_a, h_a = frame_a.state.state()
        x_forced, h_forced = self._step(frame_a.row)
        # h' = y + s x, and both have the same x.
        estimate = h_a - np.float32(frame_a.row.slope) * self.x
        errors = (
            l2_relative_errors(estimate + (h_forced - h_a), estimate),
            l2_relative_errors(x_forced, x_a),
            l2_relative_errors(frame_b.x(), x_a),
        )
        self.errors.append(errors)
        self.x, self.h = x_a, h_a

    def row_errors(self) -> RowErrors:
        """The errors of all rows."""
        estimate, step, drift = (np.stack(rows) for rows in zip(*self.errors, strict=True))
        return RowErrors(tokens=self.tokens_error, estimate=estimate, step=step, drift=drift)

    def _step(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        state = self.b.runtime.start(self.x, self.tokens)
        # A row with fresh noise receives it in place of the history.
        noise = self.request.fresh_noise(self.a.bundle, row)
        state.step(row, self.h if noise is None else noise)
        return state.state()


def check_finite(x: np.ndarray, side: Contender) -> None:
    """Refuse final states with NaN or infinity.

    Raises:
        RuntimeFailure: names the bundle and its engine.
    """
    if not np.isfinite(x).all():
        raise RuntimeFailure(
            f"{side.bundle.path}: an image holds NaN or infinity on {side.engine}; use a higher"
            " precision and run minit2i verify"
        )
