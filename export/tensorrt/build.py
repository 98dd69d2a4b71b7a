"""From one ONNX graph to one plan."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.engines.key import BuildFlags
from minit2i_deploy.engines.sidecar import NO_AUDIT, Audit
from minit2i_deploy.errors import BundleError, RuntimeFailure, UsageError
from minit2i_deploy.export.tensorrt.audit import audit_layers
from minit2i_deploy.export.tensorrt.library import BuildLibrary
from minit2i_deploy.export.tensorrt.log import Heard, make_logger
from minit2i_deploy.export.tensorrt.memory import peak_bytes, reset_peak
from minit2i_deploy.export.tensorrt.monitor import Phases, make_monitor, stoppable
from minit2i_deploy.export.tensorrt.reclaim import reclaiming
from minit2i_deploy.io.files import atomic_write_bytes
from minit2i_deploy.progress import Progress, no_progress

_NO_KERNEL: Final = "not supported by a dedicated kernel"
# What TensorRT-RTX 1.7 says where it is to build a refittable engine without a card, for another
# card, or for several.
_NO_REFIT: Final = ("status == CUDA_SUCCESS", "accelerator list", "sm_vers_.size()")
_NO_MEMORY: Final = ("out of memory", "outofmemory", "cudaerrormemoryallocation", "bad_alloc")


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What a build gave besides the plan's file.

    Args:
        audit: its kernels.
        seconds: that the library took, reading the graph included.
        host_memory_bytes: greatest resident memory of the process meanwhile, or None.
        device_memory_bytes: scratch memory of the engine, or None where it was not told.
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
    sizes: Mapping[str, tuple[int, ...]],
    targets: tuple[str, ...],
    flags: BuildFlags,
    precision: str,
    timing_cache: Path | None = None,
    progress: Progress = no_progress,
) -> Built:
    """Build one engine and write its plan.

    Args:
        library: from ``BuildLibrary.open``.
        graph: the ONNX file, its weights beside it.
        plan: file to write, as it is made; hold it under a name that nobody reads until the end.
        sizes: least, usual and greatest value of every free size, by its name in the graph.
        targets: as in ``EngineKey.targets``.
        flags: switches.
        precision: of the graph; in fp32, attention without a kernel of its own is taken apart.
        timing_cache: file that keeps measured kernel times between builds.
        progress: called with the share that is done and the phase.

    Raises:
        BundleError: the graph cannot be parsed.
        UsageError: the library lacks a target or a switch.
        RuntimeFailure: the build failed; the library's reason and, where known, the remedy.
        KeyboardInterrupt: it was stopped.
    """
    heard, phases = Heard(), Phases(progress)
    reset_peak()
    began = time.perf_counter()
    # The builder keeps no reference to the logger, nor the config to the monitor.
    logger, monitor = make_logger(library.module, heard), make_monitor(library.module, phases)
    builder = library.module.Builder(logger)
    network = library.create_network(builder)
    parser = _parse(library, network, logger, graph, heard)
    attention = library.count_attention(network)
    if flags.allow_unfused or precision == "fp32":
        library.allow_unfused(network)
    config = builder.create_builder_config()
    library.set_flags(config, flags)
    library.set_targets(config, targets)
    config.progress_monitor = monitor
    config.add_optimization_profile(_profile(builder, network, graph, sizes))
    cache = _load_timing_cache(library, config, timing_cache)
    weights = graph.with_name(f"{graph.name}.data")
    with stoppable(phases), reclaiming(weights), plan.open("wb") as stream:
        done = library.serialize(builder, network, config, stream)
        stream.flush()
        os.fsync(stream.fileno())
    if not done:
        raise _failure(library, graph, heard, flags)
    _save_timing_cache(cache, timing_cache)
    phases.finish()
    del parser  # it owns the weights, so it outlives the build
    return Built(
        audit=_audit(library, plan, logger, heard, attention),
        seconds=time.perf_counter() - began,
        host_memory_bytes=peak_bytes(),
        device_memory_bytes=heard.scratch_bytes,
        warnings=tuple(heard.warnings),
    )


def _audit(library: BuildLibrary, plan: Path, logger: Any, heard: Heard, attention: int) -> Audit:
    """From the log, which needs no card; where it lists nothing, from the engine itself."""
    found = audit_layers(heard.layers, "log", attention)
    if found.source != NO_AUDIT.source:
        return found
    return audit_layers(library.inspect(plan, logger), "inspector", attention)


def _parse(library: BuildLibrary, network: Any, logger: Any, graph: Path, heard: Heard) -> Any:
    parser = library.module.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        first = parser.get_error(0).desc() if parser.num_errors else heard.reason()
        reason = " ".join(str(first).split())[:300]
        raise BundleError(
            f"{graph}: {library.name} {library.version} cannot read this graph ({reason});"
            " re-run minit2i export"
        )
    return parser


def _profile(builder: Any, network: Any, graph: Path, sizes: Mapping[str, tuple[int, ...]]) -> Any:
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
                f"{graph}: input {value.name} has a free size {unknown[0]!r}, but sizes are given"
                f" for {', '.join(sizes)}; re-run minit2i export"
            )
        if free:
            profile.set_shape(
                value.name,
                *(
                    tuple(
                        sizes[name][which] if size < 0 else size
                        for size, name in zip(shape, names, strict=True)
                    )
                    for which in range(3)
                ),
            )
    return profile


def _load_timing_cache(library: BuildLibrary, config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    if library.is_rtx:
        raise UsageError(
            "TensorRT-RTX measures no kernels while it builds; leave --timing-cache out"
        )
    if not path.parent.is_dir():
        raise UsageError(f"{path}: its folder is missing; make it, or name another file")
    try:
        cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError(
            f"{path}: is no timing cache of {library.name} {library.version} for this card; name"
            " another file"
        )
    return cache


def _save_timing_cache(cache: Any, path: Path | None) -> None:
    if cache is not None and path is not None:
        atomic_write_bytes(path, bytes(cache.serialize()))


def _failure(library: BuildLibrary, graph: Path, heard: Heard, flags: BuildFlags) -> RuntimeFailure:
    reason = heard.reason()
    what = f"{graph}: {library.name} {library.version} built no engine"
    if any(_NO_KERNEL in line for line in heard.errors):
        return RuntimeFailure(
            f"{what}: it has no fused attention for this graph's type, head width and target; add"
            " --allow-unfused for several slower kernels, or export another --precision"
        )
    refit = flags.refit or flags.strip_weights
    if refit and any(word in line for line in heard.errors for word in _NO_REFIT):
        return RuntimeFailure(
            f"{what}: refittable engines of TensorRT-RTX are built on a machine with a card and"
            f" for that card, --target native ({reason})"
        )
    if any(word in line.lower() for line in heard.errors for word in _NO_MEMORY):
        bound = flags.workspace_bytes
        limit = "its own bound" if bound is None else f"{bound / 1e9:.1f} GB"
        return RuntimeFailure(
            f"{what}: out of memory ({reason}); lower --max-batch, --texts or --workspace (now"
            f" {limit}), or build one --graph at a time"
        )
    return RuntimeFailure(f"{what}: {reason}")
