"""Calibrate: draw prompts, noise and rows, run the model, record what its layers read."""

from __future__ import annotations

import bisect
import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import ml_dtypes
import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.calibration.ranges import Calibration, round_range
from minit2i_deploy.export.quantize.calibration.trajectory_states import State, draw
from minit2i_deploy.export.quantize.graph.graph_runtime import GraphsRuntime
from minit2i_deploy.export.quantize.graph.measured_values import Site, attention_sites, linear_sites
from minit2i_deploy.export.quantize.graph.model_graph import Session, read_graph, widen
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.solvers.table import Table

# Most bytes of a graph's inner values that one run gives out.
_CHUNK_BYTES: Final = 512 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawSettings:
    """How much is drawn, and from which seed.

    Args:
        samples: trajectories, each of another prompt and start noise.
        seed: of the whole draw.
        strata: equal parts of the table; one row of each is kept of every trajectory.
        rows: rows of each value that are stored, about.

    Raises:
        UsageError: a number outside its range.
    """

    samples: int = 16
    seed: int = 0
    strata: int = 8
    rows: int = 512

    def __post_init__(self) -> None:
        for name in ("samples", "strata", "rows"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, but at least 1 is needed")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, but it may not be negative")


def calibrate(
    bundle: Bundle,
    prompts: PromptSet,
    settings: DrawSettings,
    progress: Progress = no_progress,
) -> Calibration:
    """Record ranges and rows of the step graph's values along the model's own trajectories.

    Args:
        bundle: in any precision; the arithmetic is float32.
        prompts: to draw from.
        settings: how much.
        progress: called with the share that is done and the name of the stage.

    Raises:
        RuntimeFailure: the engine failed, or values are not finite.
    """
    job = plan(bundle, prompts, settings)
    with GraphsRuntime(bundle) as runtime:
        drawn = draw(
            bundle,
            runtime,
            job.prompts,
            job.seeds,
            job.rows,
            job.table,
            job.guidance,
            stage_of(progress, 0.0, 0.5, "trajectories"),
        )
    states = [state for item in drawn for state in item.states]
    strata = [bisect.bisect_right(job.edges, state.index) - 1 for state in states]
    absmax, rows = _record(bundle, states, strata, settings, stage_of(progress, 0.5, 1.0, "ranges"))
    return Calibration(meta=job.meta, absmax=absmax, rows=rows)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """What a calibration will run: known before it runs, and recorded with it.

    Args:
        table: rows of the trajectories.
        guidance: their scale.
        prompts: one a trajectory.
        seeds: of their noise.
        rows: rows of the table whose states are kept, a set a trajectory.
        edges: first row of each stratum, and the number of rows.
        meta: all this and where it comes from, ``Calibration.meta``.
    """

    table: Table
    guidance: float
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[frozenset[int], ...]
    edges: tuple[int, ...]
    meta: Mapping[str, Any]


def plan(bundle: Bundle, prompts: PromptSet, settings: DrawSettings) -> Plan:
    """Draw prompts, seeds and rows; the same arguments give the same plan on any machine."""
    table, guidance, preset = _table(bundle)
    rng = np.random.default_rng(settings.seed)
    chosen: list[str] = []
    while len(chosen) < settings.samples:
        chosen += [prompts.texts[i] for i in rng.permutation(len(prompts.texts))]
    seeds = tuple(int(value) for value in rng.integers(0, 2**31, settings.samples))
    edges = _edges(len(table), settings.strata)
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
        "prompts": chosen[: settings.samples],
        "noise_seeds": list(seeds),
        "rows_of_table": [sorted(kept) for kept in rows],
        "times": [float(table.column("t")[i]) for i in edges[:-1]],
        **dataclasses.asdict(settings),
    }
    return Plan(
        table=table,
        guidance=guidance,
        prompts=tuple(chosen[: settings.samples]),
        seeds=seeds,
        rows=rows,
        edges=edges,
        meta=meta,
    )


def _table(bundle: Bundle) -> tuple[Table, float, str]:
    """The preset with the fewest rows: calibration pays for each."""
    presets = bundle.manifest.presets
    by_length = {name: len(bundle.table(preset.table)) for name, preset in presets.items()}
    name = min(sorted(by_length), key=lambda item: by_length[item])
    table, guidance = bundle.preset(name)
    return table, guidance, name


def _edges(length: int, strata: int) -> tuple[int, ...]:
    parts = min(strata, length)
    return tuple(length * i // parts for i in range(parts + 1))


def _record(
    bundle: Bundle,
    states: Sequence[State],
    strata: Sequence[int],
    settings: DrawSettings,
    progress: Progress,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    graph = widen(read_graph(bundle.graph_path("transformer")))
    sites = [*linear_sites(graph), *attention_sites(graph)]
    each = -(-settings.rows // len(states))
    absmax: dict[str, np.ndarray] = {}
    rows: dict[str, list[np.ndarray]] = {}
    done = 0
    for chunk in _chunks(bundle, sites, states):
        with Session(graph, [site.value for site in chunk]) as run:
            for number, (state, stratum) in enumerate(zip(states, strata, strict=True)):
                inputs = _known(run, state)
                for site, values in zip(chunk, run(inputs), strict=True):
                    flat = _flat(site, values)
                    highest = absmax.setdefault(
                        site.name, np.zeros((max(strata) + 1, flat.shape[1]), np.float32)
                    )
                    np.maximum(highest[stratum], np.abs(flat).max(axis=0), out=highest[stratum])
                    rows.setdefault(site.name, []).append(
                        _some(flat, each, (settings.seed, zlib.crc32(site.name.encode()), number))
                    )
                progress((done + len(chunk) * (number + 1) / len(states)) / len(sites))
        done += len(chunk)
    ranges = {name: round_range(values) for name, values in absmax.items()}
    return ranges, {name: np.concatenate(parts) for name, parts in rows.items()}


def _known(run: Session, state: State) -> dict[str, np.ndarray]:
    """The inputs that are left in a graph that was cut."""
    return {name: state.inputs[name] for name in run.inputs}


def _flat(site: Site, values: np.ndarray) -> np.ndarray:
    flat = np.asarray(values.reshape(-1, values.shape[-1]), dtype=np.float32)
    if not np.isfinite(flat).all():
        raise RuntimeFailure(
            f"{site.name}: its input holds NaN or infinity; the checkpoint's weights are damaged,"
            " or its numbers overflow float32"
        )
    return flat


def _some(flat: np.ndarray, count: int, key: tuple[int, ...]) -> np.ndarray:
    chosen = np.random.default_rng(list(key)).integers(0, len(flat), count)
    kept: np.ndarray = flat[chosen].astype(ml_dtypes.bfloat16).astype(np.float32)
    return kept


def _chunks(bundle: Bundle, sites: Sequence[Site], states: Sequence[State]) -> Iterator[list[Site]]:
    """Sites in runs whose values together stay under _CHUNK_BYTES."""
    branches = max(len(state.inputs["weights"]) for state in states)
    config = bundle.config
    tokens = branches * (config.num_text_tokens + config.num_patches_side**2)
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
