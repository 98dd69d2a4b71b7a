"""From one ONNX graph to one plan, the file of an engine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minit2i_deploy.bundle.names import data_beside
from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.engines.sidecar import NO_AUDIT, Audit
from minit2i_deploy.errors import BundleError
from minit2i_deploy.export.tensorrt.audit import audit_layers
from minit2i_deploy.export.tensorrt.build_failure import build_failure
from minit2i_deploy.export.tensorrt.build_library import BuildLibrary
from minit2i_deploy.export.tensorrt.build_phases import Phases, make_monitor, stoppable
from minit2i_deploy.export.tensorrt.library_log import LibraryLog, make_logger
from minit2i_deploy.export.tensorrt.memory_reclaim import reclaiming
from minit2i_deploy.export.tensorrt.process_memory import peak_bytes, reset_peak
from minit2i_deploy.export.tensorrt.timing_cache import load_timing_cache, save_timing_cache
from minit2i_deploy.progress import Progress, no_progress

Sizes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """Result of a build besides the plan's file.

    Args:
        audit: counts of the engine's kernels.
        seconds: duration, reading the graph included.
        host_memory_bytes: peak resident memory of the process during the build, or None.
        device_memory_bytes: scratch memory of the engine, or None if the library does not log it.
        warnings: of the library.
    """

    audit: Audit
    seconds: float
    host_memory_bytes: int | None
    device_memory_bytes: int | None
    warnings: tuple[str, ...]


def build_engine(
    library: BuildLibrary,
    graph: Path,
    plan: Path,
    *,
    sizes: Sizes,
    targets: tuple[str, ...],
    flags: BuildFlags,
    precision: str,
    timing_cache: Path | None = None,
    progress: Progress = no_progress,
) -> BuildResult:
    """Build one engine and write its plan.

    Args:
        library: from ``BuildLibrary.open``.
        graph: the ONNX file, its weights beside it.
        plan: file to write during the build; the caller renames it once it is complete.
        sizes: least, usual and greatest value of every free size, by its name in the graph.
        targets: as in ``EngineKey.targets``.
        flags: of the build.
        precision: of the graph; in fp32, attention without a kernel of its own is decomposed.
        timing_cache: file that stores measured kernel times between builds.
        progress: called with the share that is done and the phase.

    Raises:
        BundleError: the graph cannot be parsed.
        UsageError: the library lacks a target or a flag.
        RuntimeFailure: the build failed; the library's reason and, if it is known, the remedy.
        KeyboardInterrupt: it was stopped.
    """
    reset_peak()
    start_s = time.perf_counter()
    build = _Build(library, graph, progress)
    num_attention = library.count_attention(build.network)
    if flags.allow_unfused or precision == "fp32":
        library.allow_unfused(build.network)
    config = build.configure(sizes, targets, flags)
    cache = load_timing_cache(library, config, timing_cache)
    build.write(config, plan, flags)
    save_timing_cache(cache, timing_cache)
    build.phases.finish()
    return BuildResult(
        audit=_audit(library, plan, build.logger, build.log, num_attention),
        seconds=time.perf_counter() - start_s,
        host_memory_bytes=peak_bytes(),
        device_memory_bytes=build.log.scratch_bytes,
        warnings=tuple(build.log.warnings),
    )


class _Build:
    """A parsed network, and the library's objects that must live as long as its build.

    The builder has no reference to the logger, nor the config to the monitor, and the parser owns
    the weights.
    """

    def __init__(self, library: BuildLibrary, graph: Path, progress: Progress) -> None:
        self.library, self.graph = library, graph
        self.log, self.phases = LibraryLog(), Phases(progress)
        self.logger = make_logger(library.module, self.log)
        self.monitor = make_monitor(library.module, self.phases)
        self.builder = library.module.Builder(self.logger)
        self.network = library.create_network(self.builder)
        self.parser = self._parse()

    def configure(self, sizes: Sizes, targets: tuple[str, ...], flags: BuildFlags) -> Any:
        """The library's config of the build."""
        config = self.builder.create_builder_config()
        self.library.set_flags(config, flags)
        self.library.set_targets(config, targets)
        config.progress_monitor = self.monitor
        profile = _profile(self.builder, self.network, self.graph, sizes)
        config.add_optimization_profile(profile)
        return config

    def write(self, config: Any, plan: Path, flags: BuildFlags) -> None:
        """Build, and write the plan."""
        weights = data_beside(self.graph)
        with stoppable(self.phases), reclaiming(weights), plan.open("wb") as stream:
            is_built = self.library.serialize(self.builder, self.network, config, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if not is_built:
            raise build_failure(self.library, self.graph, self.log, flags)

    def _parse(self) -> Any:
        parser = self.library.module.OnnxParser(self.network, self.logger)
        if not parser.parse_from_file(str(self.graph)):
            first = parser.get_error(0).desc() if parser.num_errors else self.log.reason()
            reason = " ".join(str(first).split())[:300]
            raise BundleError(
                f"{self.graph}: {self.library.name} {self.library.version} cannot read this graph"
                f" ({reason}); re-run minit2i export"
            )
        return parser


def _audit(
    library: BuildLibrary, plan: Path, logger: Any, log: LibraryLog, num_attention: int
) -> Audit:
    """From the log, which needs no GPU; if it lists no layers, from the engine itself."""
    audit = audit_layers(log.layers, "log", num_attention)
    if audit.source != NO_AUDIT.source:
        return audit
    return audit_layers(library.inspect(plan, logger), "inspector", num_attention)


def _profile(builder: Any, network: Any, graph: Path, sizes: Sizes) -> Any:
    """One profile with the sizes of every input that has a free one."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        shape = list(value.shape)
        names = [value.get_dimension_name(axis) for axis in range(len(shape))]
        free = [axis for axis, size in enumerate(shape) if size < 0]
        unknown = [names[axis] for axis in free if names[axis] not in sizes]
        if unknown:
            raise BundleError(
                f"{graph}: input {value.name} has a free size {unknown[0]!r}, but the known ones"
                f" are {', '.join(sizes)}; re-run minit2i export"
            )
        if free:
            # Least, usual and greatest.
            shapes = (_shape(shape, names, sizes, which) for which in range(3))
            profile.set_shape(value.name, *shapes)
    return profile


def _shape(shape: list[int], names: list[str], sizes: Sizes, which: int) -> tuple[int, ...]:
    pairs = zip(shape, names, strict=True)
    return tuple(sizes[name][which] if size < 0 else size for size, name in pairs)
