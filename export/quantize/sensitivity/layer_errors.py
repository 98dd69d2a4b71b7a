"""Errors that the quantization of each linear layer alone causes, by stratum of time.

For every layer there is one version of the step graph in which it alone is quantized, and attention
is not. Each stratum of time has two errors: that of the estimate from the reference's own state,
and that of the final state if this version ran the stratum's rows and the unquantized graph all
others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.relative_error import l2_relative_errors
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.calibration.range_collection import (
    draw_prompts,
    stratum_edges,
)
from minit2i_deploy.export.quantize.graph.float32_graph import in_float32
from minit2i_deploy.export.quantize.graph.linear_layers import Linear, match_any
from minit2i_deploy.export.quantize.graph.model_graph import Graph, Session
from minit2i_deploy.export.quantize.graph.rewrite import quantize_graph
from minit2i_deploy.export.quantize.rounding.matrix import QuantizedWeight
from minit2i_deploy.export.quantize.schemes import GraphScheme
from minit2i_deploy.export.quantize.sensitivity.reference_trajectory import (
    Drift,
    generate_reference,
)
from minit2i_deploy.export.quantize.smoothing_search import ScaledGraph
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.solvers.table import Table

# Different from calibration's draw from the same seed, so that other images are measured.
_STREAM: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivitySettings:
    """How much is measured.

    Args:
        samples: images, each of another prompt and start noise, generated as one batch.
        strata: equal parts of the table's rows.
        seed: of the draw of prompts and noise.
        finals: whether to measure final states, which costs complete trajectories per layer.

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
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, but must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerError:
    """Errors that one layer's quantization causes, with all others unquantized.

    Args:
        name: canonical.
        num_weights: of the layer.
        estimate: by stratum, relative error of the guided estimate of the clean image.
        final: by stratum, relative error of the final state; empty if it was not measured.
        whole: relative error of the final state, quantized in every row; None likewise.
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
class TimeSplit:
    """All layers quantized for a part of the time.

    Args:
        t: of the first row of the second part, 0 noise to 1 data; 1 if that part is empty.
        row: its index.
        quantized_before: drift if the rows before it are quantized.
        quantized_after: drift if the rows from it on are.
    """

    t: float
    row: int
    quantized_before: Drift
    quantized_after: Drift

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; an infinite PSNR is None."""
        return {
            "t": self.t,
            "row": self.row,
            # The names of files that exist.
            "early_quantised": self.quantized_before.to_dict(),
            "late_quantised": self.quantized_after.to_dict(),
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """The step graph that is measured, and how it would be quantized.

    Args:
        bundle: not quantized, in any precision; the arithmetic is float32.
        scheme: of the step graph.
        scaled: smoothed graph and scales.
        weights: quantized matrices by layer; those of other layers are rounded to the nearest.
        threads: of onnxruntime; 0 takes one per core.
    """

    bundle: Bundle
    scheme: GraphScheme
    scaled: ScaledGraph
    weights: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    threads: int = 0

    @property
    def unquantized(self) -> Graph:
        """The smoothed step graph."""
        return self.scaled.step.graph

    @property
    def excluded(self) -> frozenset[str]:
        """Names of the layers that the scheme excludes."""
        return match_any(self.scaled.step.linears, self.scheme.exclude)

    @property
    def layers(self) -> tuple[Linear, ...]:
        """Layers that are quantized, in the order they run; each once, however often it runs."""
        first = (x for x in self.scaled.step.linears if x.label == x.name)
        return tuple(x for x in first if x.name not in self.excluded)

    def quantized(self, exclude: Collection[str] = ()) -> Graph:
        """The step graph with all layers quantized except these and the scheme's."""
        return self._with_scheme(self.scheme, exclude)

    def alone(self, name: str) -> Graph:
        """The step graph with one layer quantized, and with attention as it is.

        Otherwise the error of attention's inputs would be a floor under every layer's.
        """
        others = {layer.name for layer in self.layers if layer.name != name}
        return self._with_scheme(replace(self.scheme, attention=None), others)

    def _with_scheme(self, scheme: GraphScheme, exclude: Collection[str]) -> Graph:
        scaled, excluded = self.scaled, self.excluded | set(exclude)
        return quantize_graph(
            scaled.step, scheme, scaled.scales, exclude=excluded, weights=self.weights
        )

    def open(self, graph: Graph) -> Session:
        """A version of the step graph, run in float32 whatever its weights are."""
        return Session(in_float32(graph), threads=self.threads)


class SensitivityMeter:
    """Versions of one step graph, measured against the unquantized one on the same images.

    Args:
        subject: whose layers are quantized.
        prompts: to draw from.
        table: solver without fresh noise.
        guidance: its scale.
        settings: how much is measured.

    Raises:
        UsageError: the table draws fresh noise.
        RuntimeFailure: the engine failed.
    """

    def __init__(
        self,
        subject: Subject,
        prompts: PromptSet,
        table: Table,
        guidance: float,
        settings: SensitivitySettings,
    ) -> None:
        self.subject, self.settings = subject, settings
        self.edges = stratum_edges(len(table), settings.strata)
        self.prompts, self.seeds = draw_images(prompts, settings)
        self.reference = generate_reference(
            subject.bundle,
            subject.open(subject.unquantized),
            self.prompts,
            self.seeds,
            table,
            guidance,
        )

    @property
    def times(self) -> tuple[float, ...]:
        """t of the first row of each stratum."""
        t = self.reference.table.column("t")
        return tuple(float(t[begin]) for begin in self.edges[:-1])

    def layer(self, name: str) -> LayerError:
        """Measure one layer, quantized alone."""
        (layer,) = (each for each in self.subject.layers if each.name == name)
        with self.subject.open(self.subject.alone(name)) as step:
            error = LayerError(
                name=name, num_weights=layer.num_weights, estimate=self._estimates(step)
            )
            if not self.settings.finals:
                return error
            return replace(error, final=self._finals(step), whole=self.drift(step).error)

    def drift(self, step: Session) -> Drift:
        """Drift of a version that runs every row."""
        reference = self.reference
        x, _ = reference.run(step, reference.states[0], reference.rows)
        return reference.drift(x)

    def splits(self) -> tuple[TimeSplit, ...]:
        """All layers quantized on one side of the first row of each stratum, none on the other."""
        reference, splits = self.reference, []
        with self.subject.open(self.subject.quantized()) as step:
            for begin, t in zip(self.edges, (*self.times, 1.0), strict=True):
                split = TimeSplit(
                    t=t,
                    row=begin,
                    quantized_before=self._switched(step, reference.step, begin),
                    quantized_after=self._switched(reference.step, step, begin),
                )
                splits.append(split)
        return tuple(splits)

    def _switched(self, before: Session, after: Session, row: int) -> Drift:
        """Drift where one version runs the rows before ``row``, another those from it on."""
        reference = self.reference
        state = reference.run(before, reference.states[0], reference.rows[:row])
        x, _ = reference.run(after, state, reference.rows[row:])
        return reference.drift(x)

    def _estimates(self, step: Session) -> tuple[float, ...]:
        """At one row of each stratum, its middle one."""
        errors = []
        for begin, end in zip(self.edges, self.edges[1:], strict=False):
            index = (begin + end - 1) // 2
            pair = (self.reference.estimate(each, index) for each in (step, self.reference.step))
            errors.append(float(l2_relative_errors(*pair).mean()))
        return tuple(errors)

    def _finals(self, step: Session) -> tuple[float, ...]:
        reference, errors = self.reference, []
        for begin, end in zip(self.edges, self.edges[1:], strict=False):
            state = reference.run(step, reference.states[begin], reference.rows[begin:end])
            x, _ = reference.run(reference.step, state, reference.rows[end:])
            errors.append(reference.drift(x).error)
        return tuple(errors)


def measure_layers(
    meter: SensitivityMeter,
    known: Mapping[str, LayerError],
    save: Callable[[Sequence[LayerError]], None] = lambda layers: None,
    progress: Progress = no_progress,
) -> tuple[LayerError, ...]:
    """Measure every layer that is not known yet, in the order they run.

    Args:
        meter: to measure with.
        known: results of an interrupted run, by name.
        save: called with all results so far after each layer.
        progress: called with the share that is done and the name of the layer.
    """
    errors: list[LayerError] = []
    for number, layer in enumerate(meter.subject.layers):
        progress(number / len(meter.subject.layers), layer.name)
        if layer.name in known:
            errors.append(known[layer.name])
            continue
        errors.append(meter.layer(layer.name))
        save(errors)
    return tuple(errors)


def draw_images(
    prompts: PromptSet, settings: SensitivitySettings
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Prompts, all of them before any is repeated, and a noise seed for each."""
    rng = np.random.default_rng([settings.seed, _STREAM])
    texts = draw_prompts(rng, prompts, settings.samples)
    return texts, tuple(int(seed) for seed in rng.integers(0, 2**31, settings.samples))
