"""What the quantisation of each linear layer alone does, stratum of time by stratum.

For every layer one version of the step graph in which it alone is quantised. In each stratum of
time: the error of the estimate from the reference's own state, and the error of the final state
where that version took the stratum's rows and the unquantised graph all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.graph.linear_layers import default_exclusions, linear_layers
from minit2i_deploy.export.quantize.graph.model_graph import Graph, Session, widen
from minit2i_deploy.export.quantize.graph.rewrite import quantize_graph
from minit2i_deploy.export.quantize.schemes import Scheme
from minit2i_deploy.export.quantize.sensitivity.reference import (
    Drift,
    Reference,
    paint_reference,
)
from minit2i_deploy.export.quantize.smoothing_search import Prepared
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.solvers.table import Table

# Apart from calibration's draw from the same seed, so that other pictures are measured.
_STREAM: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivitySettings:
    """How much is measured.

    Args:
        samples: pictures, each of another prompt and start noise, painted as one batch.
        strata: equal parts of the table's rows.
        seed: of the draw of prompts and noise.
        finals: whether to measure final states, which costs whole trajectories a layer.

    Raises:
        UsageError: a number outside its range.
    """

    samples: int = 4
    strata: int = 4
    seed: int = 0
    finals: bool = True

    def __post_init__(self) -> None:
        for name in ("samples", "strata"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but at least 1 is needed")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, but it may not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerError:
    """What one layer's quantisation causes, all else unquantised.

    Args:
        name: canonical.
        num_weights: of the layer.
        estimate: by stratum, relative error of the guided estimate of the clean image.
        final: by stratum, relative error of the final state; empty where it was not measured.
        whole: relative error of the final state, quantised in every row; None likewise.
    """

    name: str
    num_weights: int
    estimate: tuple[float, ...]
    final: tuple[float, ...] = ()
    whole: float | None = None

    @property
    def error(self) -> float:
        """The error that the layer is ranked by: of the final state, or the estimates' largest."""
        return max(self.estimate) if self.whole is None else self.whole

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerError:
        """Read ``to_dict``'s form; raises TypeError or KeyError for anything else."""
        tuples = {key: tuple(map(float, values[key])) for key in ("estimate", "final")}
        return cls(**{**values, **tuples})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """All layers quantised for a part of the time.

    Args:
        t: of the first row of the later part, 0 noise to 1 data; 1 where that part is empty.
        row: its index.
        early_quantised: how far pictures stray when the rows before it are quantised.
        late_quantised: when the rows from it on are.
    """

    t: float
    row: int
    early_quantised: Drift
    late_quantised: Drift

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; an infinite PSNR is None."""
        return {
            "t": self.t,
            "row": self.row,
            "early_quantised": self.early_quantised.to_dict(),
            "late_quantised": self.late_quantised.to_dict(),
        }


class Laboratory:
    """Versions of one step graph under one scheme, measured against the unquantised one.

    Args:
        bundle: not quantised, in any precision; the arithmetic is float32.
        scheme: what the layers are to become.
        prepared: smoothed graph and scales.
        prompts: to draw from.
        table: solver without fresh noise.
        guidance: its scale.
        settings: how much is measured.
        threads: of onnxruntime; 0 takes one a core.
    """

    def __init__(
        self,
        bundle: Bundle,
        scheme: Scheme,
        prepared: Prepared,
        prompts: PromptSet,
        table: Table,
        guidance: float,
        settings: SensitivitySettings,
        threads: int = 0,
    ) -> None:
        self.bundle, self.scheme, self.prepared = bundle, scheme, prepared
        self.settings, self.threads = settings, threads
        every = linear_layers(prepared.graph)
        self.always = default_exclusions(every, scheme.transformer.exclude)
        self.layers = tuple(layer for layer in every if layer.name not in self.always)
        self.edges = stratum_edges(len(table), settings.strata)
        chosen, self.seeds = drawn_tasks(prompts, settings)
        self.prompts = chosen
        self.reference = self._paint(self.session(prepared.graph), table, guidance)

    @property
    def times(self) -> tuple[float, ...]:
        """t of the first row of each stratum."""
        t = self.reference.table.column("t")
        return tuple(float(t[begin]) for begin in self.edges[:-1])

    def graph(self, exclude: Collection[str] = ()) -> Graph:
        """The step graph with every layer quantised but these and the scheme's own exceptions."""
        return quantize_graph(
            self.prepared.graph,
            self.scheme.transformer,
            self.prepared.scales,
            exclude=self.always | set(exclude),
        )

    def session(self, graph: Graph) -> Session:
        """A version of the step graph, run in float32 arithmetic whatever its weights are."""
        return Session(widen(graph), threads=self.threads)

    def layer(self, name: str) -> LayerError:
        """Measure one layer, quantised alone."""
        others = {layer.name for layer in self.layers if layer.name != name}
        (found,) = (layer for layer in self.layers if layer.name == name)
        with self.session(self.graph(others)) as step:
            error = LayerError(
                name=name,
                num_weights=found.num_inputs * found.num_outputs,
                estimate=self._estimates(step),
            )
            if not self.settings.finals:
                return error
            whole = self.drift(step).error
            return replace(error, final=self._finals(step), whole=whole)

    def drift(self, step: Session) -> Drift:
        """How far a version strays that takes every row."""
        reference = self.reference
        x, _ = reference.run(step, reference.states[0], reference.rows)
        return reference.drift(x)

    def splits(self) -> tuple[Split, ...]:
        """All layers quantised on one side of each stratum's begin, none on the other."""
        reference, rows = self.reference, self.reference.rows
        found = []
        with self.session(self.graph()) as step:
            for begin, t in zip(self.edges, (*self.times, 1.0), strict=True):
                drifts = []
                for early, late in ((step, reference.step), (reference.step, step)):
                    state = reference.run(early, reference.states[0], rows[:begin])
                    x, _ = reference.run(late, state, rows[begin:])
                    drifts.append(reference.drift(x))
                found.append(
                    Split(t=t, row=begin, early_quantised=drifts[0], late_quantised=drifts[1])
                )
        return tuple(found)

    def _paint(self, step: Session, table: Table, guidance: float) -> Reference:
        return paint_reference(self.bundle, step, self.prompts, self.seeds, table, guidance)

    def _estimates(self, step: Session) -> tuple[float, ...]:
        """One row a stratum, its middle one."""
        found = []
        for begin, end in zip(self.edges, self.edges[1:], strict=False):
            index = (begin + end - 1) // 2
            pair = (self.reference.estimate(each, index) for each in (step, self.reference.step))
            found.append(float(l2_relative_errors(*pair).mean()))
        return tuple(found)

    def _finals(self, step: Session) -> tuple[float, ...]:
        reference, found = self.reference, []
        for begin, end in zip(self.edges, self.edges[1:], strict=False):
            state = reference.run(step, reference.states[begin], reference.rows[begin:end])
            x, _ = reference.run(reference.step, state, reference.rows[end:])
            found.append(reference.drift(x).error)
        return tuple(found)


def measure_layers(
    laboratory: Laboratory,
    known: Mapping[str, LayerError],
    keep: Callable[[Sequence[LayerError]], None] = lambda layers: None,
    progress: Progress = no_progress,
) -> tuple[LayerError, ...]:
    """Measure every layer that is not known yet, in the order they run.

    Args:
        laboratory: what to measure with.
        known: results of an interrupted run, by name.
        keep: called with all results so far after each layer.
        progress: called with the share that is done and the name of the layer.
    """
    found: list[LayerError] = []
    for number, layer in enumerate(laboratory.layers):
        progress(number / len(laboratory.layers), layer.name)
        if layer.name in known:
            found.append(known[layer.name])
            continue
        found.append(laboratory.layer(layer.name))
        keep(found)
    return tuple(found)


def stratum_edges(length: int, strata: int) -> tuple[int, ...]:
    """First rows of the strata, and the number of rows; no stratum is empty."""
    parts = min(strata, length)
    return tuple(length * part // parts for part in range(parts + 1))


def drawn_tasks(
    prompts: PromptSet, settings: SensitivitySettings
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Prompts, each once while there are others, and a noise seed for each."""
    rng = np.random.default_rng([settings.seed, _STREAM])
    chosen: list[str] = []
    while len(chosen) < settings.samples:
        chosen += [prompts.texts[i] for i in rng.permutation(len(prompts.texts))]
    seeds = rng.integers(0, 2**31, settings.samples)
    return tuple(chosen[: settings.samples]), tuple(int(seed) for seed in seeds)
