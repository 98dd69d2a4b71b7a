"""What quantisation costs: every graph against its source, single steps, and whole pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.bundle.parity import step_check
from minit2i_deploy.bundle.step_switch import TIME_ROUNDING, SwitchRuntime
from minit2i_deploy.export.quantize.calibration.trajectory_states import Drawn, draw
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
PICTURES: Final = 2

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
    late_from: float | None = None,
) -> list[Check]:
    """Compare quantised graphs with their source in onnxruntime on the CPU, in float32.

    Args:
        bundle: the source.
        graphs: by the names of the manifest, those that were quantised.
        scheme: gives the bounds.
        prompts: one a picture.
        progress: called with the share that is done.
        late_from: rows from this time on run the source's step graph, so that no single step is
            measured there, and the final states are those of both graphs.

    Returns:
        a check a graph; one a time, of the guided estimate from the source's own state; and one
        of the final states, all graphs quantised. The first are |found - wanted| / |wanted| with
        Euclidean norms, the last is the root mean square error over the range 2, so its PSNR is
        -20 log10 of it.
    """
    table = _table(bundle)
    told = table.student_guidance
    guidance = bundle.manifest.flavour.guidance if told is None else told
    nearest = _measured_rows(table, late_from)
    seeds = [_FIRST_SEED + number for number in range(len(prompts))]
    wanted_rows = [frozenset(nearest)] * len(prompts)
    none = [frozenset[int]()] * len(prompts)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(GraphsRuntime(bundle))
        found = stack.enter_context(GraphsRuntime(bundle, graphs))
        painting = found if late_from is None else SwitchRuntime(found, source, late_from)
        start = draw(
            bundle, source, prompts, seeds, wanted_rows, table, guidance,
            stage_of(progress, 0.0, 0.4),
        )  # fmt: skip
        checks = _text_checks(bundle, source, found, prompts, table, guidance)
        checks += _step_checks(source, found, start, scheme.bounds[0], late_from)
        progress(0.5)
        end = draw(
            bundle, painting, prompts, seeds, none, table, guidance,
            stage_of(progress, 0.5, 1.0),
        )  # fmt: skip
    return [*checks, _final_check(start, end, scheme.bounds[1], table, guidance, late_from)]


def _measured_rows(table: Table, late_from: float | None) -> list[int]:
    """The row nearest to each of TIMES, but of those only what the quantised step graph runs."""
    times = table.column("t")
    nearest = [int(np.abs(times - t).argmin()) for t in TIMES]
    if late_from is None:
        return nearest
    return [index for index in nearest if times[index] < late_from - TIME_ROUNDING]


def _table(bundle: Bundle) -> Table:
    a_min = bundle.manifest.flavour.a_min
    if bundle.config.student is None:
        return solver_table("euler", steps=STEPS, a_min=a_min)
    # Told what this student paints best with, as its presets are.
    return bundle.compile_table(MEAN_FLOW, STUDENT_STEPS)


def _text_checks(
    bundle: Bundle,
    source: GraphsRuntime,
    found: GraphsRuntime,
    prompts: Sequence[str],
    table: Table,
    guidance: float,
) -> list[Check]:
    encoded = bundle.tokenizer().encode(list(prompts))
    length = bundle.config.prompt_length
    wanted, mask = SequenceEncoder(bundle, source).padded(encoded, length)
    checks = []
    if "text_encoder" in found.replaced:
        values = SequenceEncoder(bundle, found).padded(encoded, length)[0]
        checks.append(_check("text_encoder", _relative(values, wanted), _TEXT_BOUND))
    if "text_adapter" in found.replaced:
        told = student_conditions(bundle, table, guidance, None)
        conditions = None if told is None else np.tile(told, (len(wanted), 1))
        adapted = [run.adapt(wanted, mask, conditions) for run in (found, source)]
        checks.append(_check("text_adapter", _relative(*adapted), _TEXT_BOUND))
    return checks


def _step_checks(
    source: GraphsRuntime,
    found: GraphsRuntime,
    start: Sequence[Drawn],
    bound: float,
    late_from: float | None,
) -> list[Check]:
    errors: dict[float, list[float]] = {}
    for state in (state for drawn in start for state in drawn.states):
        inputs = state.estimate_inputs()
        estimate, wanted = (run.session("transformer")(inputs)[0] for run in (found, source))
        errors.setdefault(state.t, []).append(_relative(estimate, wanted))
    # max() would pass over a NaN.
    worst = {t: float(np.max(values)) for t, values in errors.items()}
    rows = "" if late_from is None else f", rows before t={late_from:g}"
    checks = [_check("transformer", float(np.max(list(worst.values()))), bound, rows)]
    return checks + [_check(step_check("transformer", t), e, bound, rows) for t, e in worst.items()]


def _check(name: str, measured: float, bound: float, rows: str = "") -> Check:
    where = f"quantised to its source, the same inputs, fp32 arithmetic on onnxruntime CPU{rows}"
    return Check(name=name, measured=measured, bound=bound, unit="relative L2", where=where)


def _final_check(
    start: Sequence[Drawn],
    end: Sequence[Drawn],
    bound: float,
    table: Table,
    guidance: float,
    late_from: float | None,
) -> Check:
    pairs = zip(start, end, strict=True)
    squares = [np.square(b.final - a.final, dtype=np.float64).mean() for a, b in pairs]
    rms = float(np.sqrt(np.mean(squares))) / 2
    psnr = -20 * np.log10(rms) if rms > 0 else np.inf
    graphs = "all graphs quantised"
    if late_from is not None:
        graphs += f" but the source's step graph from t={late_from:g} on"
    where = (
        f"final states of {len(start)} prompts, {graphs}, {table.name} at guidance"
        f" {guidance:g}; PSNR {psnr:.1f} dB"
    )
    return Check(
        name="trajectory", measured=rms, bound=bound, unit="rms share of range", where=where
    )


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
