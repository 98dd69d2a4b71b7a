"""Calibrate: draw prompts, noise and rows, run the model, record what its layers read."""

from __future__ import annotations

import bisect
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import ml_dtypes
import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.calibration.ranges import Calibration, round_range
from minit2i_deploy.export.quantize.calibration.trajectory_states import State, run_trajectories
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.model_graph import Session, widen
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph, Site
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.solvers.table import Table

# Most bytes of a graph's inner values that one run returns.
_CHUNK_BYTES: Final = 512 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawSettings:
    """How much is drawn, and from which seed.

    Args:
        samples: trajectories, each of another prompt and start noise.
        seed: of the complete draw.
        strata: equal parts of the table; of every trajectory one row of each is recorded.
        activations: activations that are stored of each value, approximately.

    Raises:
        UsageError: a number outside its range.
    """

    samples: int = 16
    seed: int = 0
    strata: int = 8
    activations: int = 512

    def __post_init__(self) -> None:
        for name in ("samples", "strata", "activations"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, but must not be negative")


def calibrate(
    bundle: Bundle,
    prompts: PromptSet,
    settings: DrawSettings,
    progress: Progress = no_progress,
) -> Calibration:
    """Record ranges and activations of the step graph along the model's own trajectories.

    Args:
        bundle: in any precision; the arithmetic is float32.
        prompts: to draw from.
        settings: how much.
        progress: called with the share that is done and the name of the stage.

    Raises:
        RuntimeFailure: the engine failed, or values are not finite.
    """
    plan = plan_calibration(bundle, prompts, settings)
    with GraphsRuntime(bundle) as runtime:
        trajectories = run_trajectories(
            bundle,
            runtime,
            plan.prompts,
            plan.seeds,
            plan.rows,
            plan.table,
            plan.guidance,
            stage_of(progress, 0.0, 0.5, "trajectories"),
        )
    states = [state for trajectory in trajectories for state in trajectory.states]
    recording = _record(bundle, plan, states, settings, stage_of(progress, 0.5, 1.0, "ranges"))
    return Calibration(
        meta=plan.meta,
        absmax={name: round_range(values) for name, values in recording.absmax.items()},
        activations={name: np.concatenate(v) for name, v in recording.activations.items()},
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """What a calibration will run: known before it runs, and recorded with it.

    Args:
        table: of the trajectories.
        guidance: their scale.
        prompts: one per trajectory.
        seeds: of their noise.
        rows: indices of the table's rows that are recorded, a set per trajectory.
        edges: index of the first row of each stratum, and the number of rows.
        meta: all this and where it comes from, ``Calibration.meta``.
    """

    table: Table
    guidance: float
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[frozenset[int], ...]
    edges: tuple[int, ...]
    meta: Mapping[str, Any]

    def stratum(self, row: int) -> int:
        """Number of the stratum that a row is in."""
        return bisect.bisect_right(self.edges, row) - 1


def plan_calibration(bundle: Bundle, prompts: PromptSet, settings: DrawSettings) -> Plan:
    """Draw prompts, seeds and rows; the same arguments give the same plan on any machine."""
    preset = shortest_preset(bundle)
    table, guidance = bundle.preset(preset)
    rng = np.random.default_rng(settings.seed)
    texts = draw_prompts(rng, prompts, settings.samples)
    seeds = tuple(int(value) for value in rng.integers(0, 2**31, settings.samples))
    edges = stratum_edges(len(table), settings.strata)
    rows = tuple(
        frozenset(int(rng.integers(low, high)) for low, high in pairwise(edges)) for _ in seeds
    )
    origin = bundle.manifest.provenance
    meta = {
        "checkpoint_sha256": origin.checkpoint_sha256,
        "lora_sha256": origin.lora_sha256,
        "bundle": bundle.digest,
        "table": table.name,
        "preset": preset,
        "guidance": guidance,
        "prompt_set": prompts.name,
        "prompts": list(texts),
        "noise_seeds": list(seeds),
        "rows_of_table": [sorted(indices) for indices in rows],
        "times": [float(table.column("t")[i]) for i in edges[:-1]],
        "samples": settings.samples,
        "seed": settings.seed,
        "strata": settings.strata,
        "rows": settings.activations,
    }
    return Plan(
        table=table,
        guidance=guidance,
        prompts=texts,
        seeds=seeds,
        rows=rows,
        edges=edges,
        meta=meta,
    )


def check_origin(calibration: Calibration, bundle: Bundle, name: str = "the calibration") -> None:
    """Refuse a calibration of another checkpoint, or of one with other adapters.

    Args:
        calibration: to compare.
        bundle: that it is used for.
        name: of the calibration, for the text.

    Raises:
        UsageError: the text has both.
    """
    meta, origin = calibration.meta, bundle.manifest.provenance
    actual = meta.get("checkpoint_sha256"), meta.get("lora_sha256")
    expected = origin.checkpoint_sha256, origin.lora_sha256
    if actual != expected:
        raise UsageError(
            f"{name} is of {_weights_text(*actual)}, but {bundle.path} is of"
            f" {_weights_text(*expected)}; calibrate this bundle, or give a file of it"
        )


def _weights_text(checkpoint: str | None, lora: str | None) -> str:
    adapters = "" if lora is None else f" with LoRA {lora[:8]}.."
    return f"checkpoint {str(checkpoint)[:8]}..{adapters}"


def shortest_preset(bundle: Bundle) -> str:
    """Name of the preset with the fewest rows: measurements pay for each."""
    presets = bundle.manifest.presets
    return min(sorted(presets), key=lambda name: len(bundle.table(presets[name].table)))


def draw_prompts(rng: np.random.Generator, prompts: PromptSet, count: int) -> tuple[str, ...]:
    """Prompts in random order, all of them before any is repeated."""
    texts: list[str] = []
    while len(texts) < count:
        texts += [prompts.texts[i] for i in rng.permutation(len(prompts.texts))]
    return tuple(texts[:count])


def stratum_edges(length: int, strata: int) -> tuple[int, ...]:
    """Index of each stratum's first row, and the number of rows; no stratum is empty."""
    parts = min(strata, length)
    return tuple(length * part // parts for part in range(parts + 1))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Recording:
    """Largest magnitudes [strata, channels] and parts of the stored activations, by site."""

    num_strata: int
    absmax: dict[str, np.ndarray] = field(default_factory=dict)
    activations: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, site: Site, values: np.ndarray, stratum: int, sample: np.ndarray) -> None:
        """Add [n, channels] of one state, and the part of it that is stored."""
        empty = np.zeros((self.num_strata, values.shape[1]), np.float32)
        absmax = self.absmax.setdefault(site.name, empty)
        np.maximum(absmax[stratum], np.abs(values).max(axis=0), out=absmax[stratum])
        self.activations.setdefault(site.name, []).append(sample)


def _record(
    bundle: Bundle,
    plan: Plan,
    states: Sequence[State],
    settings: DrawSettings,
    progress: Progress,
) -> _Recording:
    step = QuantizableGraph.read(bundle.graph_path("transformer"))
    graph, sites = widen(step.graph), step.sites
    per_state = -(-settings.activations // len(states))
    recording = _Recording(num_strata=len(plan.edges) - 1)
    done = 0
    for chunk in _chunks(bundle, sites, states):
        with Session(graph, [site.value for site in chunk]) as run:
            for number, state in enumerate(states):
                outputs = run({name: state.inputs[name] for name in run.inputs})
                for site, output in zip(chunk, outputs, strict=True):
                    values = _finite(site, output)
                    key = (settings.seed, zlib.crc32(site.name.encode()), number)
                    sample = _sample(values, per_state, key)
                    recording.add(site, values, plan.stratum(state.index), sample)
                progress((done + len(chunk) * (number + 1) / len(states)) / len(sites))
        done += len(chunk)
    return recording


def _finite(site: Site, values: np.ndarray) -> np.ndarray:
    """float32 [n, channels]."""
    flat = np.asarray(values.reshape(-1, values.shape[-1]), dtype=np.float32)
    if not np.isfinite(flat).all():
        raise RuntimeFailure(
            f"{site.name}: its input has NaN or infinity; the checkpoint's weights are corrupt, or"
            " values overflow float32"
        )
    return flat


def _sample(values: np.ndarray, count: int, key: tuple[int, ...]) -> np.ndarray:
    """Some of the activations, in bfloat16's precision."""
    indices = np.random.default_rng(list(key)).integers(0, len(values), count)
    rounded: np.ndarray = values[indices].astype(ml_dtypes.bfloat16).astype(np.float32)
    return rounded


def _chunks(bundle: Bundle, sites: Sequence[Site], states: Sequence[State]) -> Iterator[list[Site]]:
    """Sites in groups whose values together stay under _CHUNK_BYTES."""
    branches = max(len(state.inputs["weights"]) for state in states)
    tokens = branches * (bundle.config.num_text_tokens + bundle.config.num_image_tokens)
    chunk: list[Site] = []
    total = 0
    for site in sites:
        size = 4 * tokens * site.width
        if chunk and total + size > _CHUNK_BYTES:
            yield chunk
            chunk, total = [], 0
        chunk.append(site)
        total += size
    yield chunk
