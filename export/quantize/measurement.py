"""Measured differences of quantized graphs from their source: graphs, single steps, images."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.bundle.parity import step_check
from minit2i_deploy.bundle.step_switch import TIME_ROUNDING, SwitchRuntime
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.export.quantize.calibration.trajectory_states import (
    Trajectory,
    run_trajectories,
)
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.schemes import Scheme
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.solvers.mean_flow import MEAN_FLOW
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.text.conditioning import student_conditions
from minit2i_deploy.text.encoder import SequenceEncoder

# Times at which single steps are measured: the row nearest to each.
TIMES: Final = (0.0, 0.2, 0.5, 0.8, 0.95)
STEPS: Final = 20
STUDENT_STEPS: Final = 4
NUM_IMAGES: Final = 2

_FIRST_SEED: Final = 1_000_003
# Of text encoder and text adapter with INT8 weights. Measured: 1.3e-2 and 8e-3 at most.
_TEXT_BOUND: Final = 0.05


def measure(
    bundle: Bundle,
    graphs: Mapping[str, Graph],
    scheme: Scheme,
    prompts: Sequence[str],
    progress: Progress = no_progress,
    *,
    switch_at: float | None = None,
) -> list[Check]:
    """Compare quantized graphs with their source in onnxruntime on the CPU, in float32.

    Args:
        bundle: the source.
        graphs: the quantized ones by the names of the manifest.
        scheme: has the bounds.
        prompts: one per image.
        progress: called with the share that is done.
        switch_at: rows from this time on run the source's step graph, so that no single step is
            measured there, and the final states are those of both graphs.

    Returns:
        a check of each graph, one of each time, of the guided estimate from the source's own
        state, and one of the final states, with all graphs quantized. The first are
        |actual - expected| / |expected| by Euclidean norm; the last is the root mean square
        error over the range 2, so its PSNR is -20 log10 of it.
    """
    run = _Run.of(bundle, prompts, switch_at)
    rows = run.measured_rows()
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(GraphsRuntime(bundle))
        quantized = stack.enter_context(GraphsRuntime(bundle, graphs))
        expected = run.trajectories(source, rows, stage_of(progress, 0.0, 0.4))
        checks = _text_checks(run, source, quantized)
        checks += _step_checks(run, source, quantized, expected, scheme.bounds[0])
        switching = quantized if switch_at is None else SwitchRuntime(quantized, source, switch_at)
        actual = run.trajectories(switching, (), stage_of(progress, 0.5, 1.0))
    return [*checks, _final_check(run, actual, expected, scheme.bounds[1])]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Run:
    """The trajectories that are compared."""

    bundle: Bundle
    prompts: Sequence[str]
    table: Table
    guidance: float
    switch_at: float | None

    @classmethod
    def of(cls, bundle: Bundle, prompts: Sequence[str], switch_at: float | None) -> _Run:
        table = _table(bundle)
        guidance = table.student_guidance
        return cls(
            bundle=bundle,
            prompts=prompts,
            table=table,
            guidance=bundle.manifest.flavour.guidance if guidance is None else guidance,
            switch_at=switch_at,
        )

    def measured_rows(self) -> frozenset[int]:
        """Indices of the rows nearest to TIMES that the quantized step graph runs."""
        times = self.table.column("t")
        nearest = (int(np.abs(times - t).argmin()) for t in TIMES)
        end = np.inf if self.switch_at is None else self.switch_at - TIME_ROUNDING
        return frozenset(index for index in nearest if times[index] < end)

    def trajectories(
        self, runtime: GraphsRuntime | SwitchRuntime, rows: Collection[int], progress: Progress
    ) -> list[Trajectory]:
        """One per prompt, with the states before these rows."""
        count = len(self.prompts)
        return run_trajectories(
            self.bundle,
            runtime,
            self.prompts,
            [_FIRST_SEED + number for number in range(count)],
            [rows] * count,
            self.table,
            self.guidance,
            progress,
        )


def _table(bundle: Bundle) -> Table:
    if bundle.config.student is None:
        return solver_table("euler", steps=STEPS, a_min=bundle.manifest.flavour.a_min)
    # With the student's own conditions, as its presets have them.
    return bundle.compile_table(MEAN_FLOW, STUDENT_STEPS)


def _text_checks(run: _Run, source: GraphsRuntime, quantized: GraphsRuntime) -> list[Check]:
    encoded = run.bundle.tokenizer().encode(list(run.prompts))
    length = run.bundle.config.prompt_length
    expected, mask = SequenceEncoder(run.bundle, source).padded(encoded, length)
    checks = []
    if "text_encoder" in quantized.replaced:
        actual = SequenceEncoder(run.bundle, quantized).padded(encoded, length)[0]
        checks.append(_check("text_encoder", _l2_error(actual, expected), _TEXT_BOUND))
    if "text_adapter" in quantized.replaced:
        row = student_conditions(run.bundle, run.table, run.guidance, None)
        conditions = None if row is None else np.tile(row, (len(expected), 1))
        tokens = [each.adapt(expected, mask, conditions) for each in (quantized, source)]
        checks.append(_check("text_adapter", _l2_error(*tokens), _TEXT_BOUND))
    return checks


def _step_checks(
    run: _Run,
    source: GraphsRuntime,
    quantized: GraphsRuntime,
    trajectories: Sequence[Trajectory],
    bound: float,
) -> list[Check]:
    errors: dict[float, list[float]] = {}
    for state in (state for trajectory in trajectories for state in trajectory.states):
        inputs = state.estimate_inputs()
        pair = (each.session("transformer")(inputs)[0] for each in (quantized, source))
        errors.setdefault(state.t, []).append(_l2_error(*pair))
    # Not max(), which passes over a NaN.
    worst = {t: float(np.max(values)) for t, values in errors.items()}
    rows = "" if run.switch_at is None else f", rows before t={run.switch_at:g}"
    return [
        _check("transformer", float(np.max(list(worst.values()))), bound, rows),
        *(_check(step_check("transformer", t), error, bound, rows) for t, error in worst.items()),
    ]


def _check(name: str, measured: float, bound: float, rows: str = "") -> Check:
    where = f"quantized to its source, the same inputs, fp32 arithmetic on onnxruntime CPU{rows}"
    return Check(name=name, measured=measured, bound=bound, unit="relative L2", where=where)


def _final_check(
    run: _Run, actual: Sequence[Trajectory], expected: Sequence[Trajectory], bound: float
) -> Check:
    pairs = zip(actual, expected, strict=True)
    squares = [np.square(a.final - e.final, dtype=np.float64).mean() for a, e in pairs]
    rms = float(np.sqrt(np.mean(squares))) / 2
    psnr = -20 * np.log10(rms) if rms > 0 else np.inf
    graphs = "all graphs quantized"
    if run.switch_at is not None:
        graphs += f" except the source's step graph from t={run.switch_at:g} on"
    where = (
        f"final states of {len(expected)} prompts, {graphs}, {run.table.name} at guidance"
        f" {run.guidance:g}; PSNR {psnr:.1f} dB"
    )
    unit = "rms share of range"
    return Check(name="trajectory", measured=rms, bound=bound, unit=unit, where=where)


def _l2_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Of the arrays as a whole."""
    return float(l2_relative_errors(actual[None], expected[None])[0])
