"""The engines of a bundle, top to bottom: plan, find the cached ones, build the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.compatibility import require_engine_fits
from minit2i_deploy.engines.cache import (
    CachedEngine,
    PlannedBuild,
    engine_folder,
    engine_lock,
    new_engine,
    plan_builds,
    read_engine,
    record_engine,
)
from minit2i_deploy.engines.key import PORTABLE, TENSORRT_RTX, EngineKey, native_target
from minit2i_deploy.engines.sidecar import PLAN_FILE, Audit, EngineRecord
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.export.tensorrt.audit import shortfall
from minit2i_deploy.export.tensorrt.build import build_engine
from minit2i_deploy.export.tensorrt.build_device import use_device
from minit2i_deploy.export.tensorrt.build_library import BuildLibrary
from minit2i_deploy.export.tensorrt.build_options import NATIVE, BuildOptions, sizes_for
from minit2i_deploy.export.tensorrt.capabilities import check_targets
from minit2i_deploy.progress import Progress, no_progress, stage_of

# Only the denoiser's attention can be fused: T5 adds a bias to each score, in float32.
_AUDITED: Final = "transformer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One engine after ``build_bundle``.

    Args:
        engine: its folder and record.
        built: whether it was built now, or was in the cache and current.
        reason: why it was built, or that it was current.
    """

    engine: CachedEngine
    built: bool
    reason: str


def plan_bundle(bundle: Bundle, options: BuildOptions) -> tuple[PlannedBuild, ...]:
    """What ``build_bundle`` would do, and why; nothing is written.

    Raises:
        MissingDependencyError: the engine library is not installed.
        RuntimeFailure: it is too old or does not load, there is no GPU to build on, or the bundle
            is for another engine only.
        UsageError: a target that the library lacks, or that cannot compute in a graph's precision.
    """
    return plan_builds(bundle, _keys(bundle, BuildLibrary.open(options.library), options))


def build_bundle(
    bundle: Bundle,
    options: BuildOptions,
    *,
    force: bool = False,
    progress: Progress = no_progress,
) -> tuple[Outcome, ...]:
    """Build the engines that the cache lacks, one after another.

    Args:
        bundle: whose graphs are built; the engines go into its cache.
        options: for which GPUs and sizes.
        force: build those that are current as well.
        progress: called with the share that is done and the graph and phase.

    Raises:
        MissingDependencyError: the engine library is not installed.
        UsageError: an option that the library or a GPU does not support, or a folder that may
            not be written.
        BundleError: a graph that the library cannot parse.
        RuntimeFailure: a build failed, has less fused attention than is required, or the bundle
            is for another engine only.
        Minit2iError: another process is building the same engine.
    """
    library = BuildLibrary.open(options.library)
    planned = plan_builds(bundle, _keys(bundle, library, options))
    outcomes = []
    for index, item in enumerate(planned):
        start, stop = index / len(planned), (index + 1) / len(planned)
        part = stage_of(progress, start, stop, item.key.graph)
        outcomes.append(_one(bundle, library, options, item, force, part))
    return tuple(outcomes)


def _keys(bundle: Bundle, library: BuildLibrary, options: BuildOptions) -> list[EngineKey]:
    require_engine_fits(bundle, library.name.replace("_", "-"))
    targets = _targets(library, options)
    keys = []
    for graph in options.graphs:
        check_targets(library.name, targets, bundle.manifest.graphs[graph].precision)
        keys.append(
            EngineKey.of(
                bundle,
                graph,
                sizes=sizes_for(bundle, graph, options),
                flags=options.flags,
                library=library.name,
                library_version=library.version,
                targets=targets,
            )
        )
    return keys


def _targets(library: BuildLibrary, options: BuildOptions) -> tuple[str, ...]:
    is_native = options.targets == (NATIVE,)
    if library.name == TENSORRT_RTX and not is_native:
        return options.targets or (PORTABLE,)
    if options.targets and not is_native:
        raise UsageError(
            f"--target {' '.join(options.targets)}: TensorRT builds only for the GPU it runs on;"
            " omit it, or use --engine tensorrt-rtx"
        )
    device = use_device(options.device)
    return (native_target(device.capability, device.name),)


def _one(
    bundle: Bundle,
    library: BuildLibrary,
    options: BuildOptions,
    item: PlannedBuild,
    force: bool,
    progress: Progress,
) -> Outcome:
    if item.current and not force:
        return _current(bundle, item, options)
    with engine_lock(bundle, item.key, wait_s=options.wait_s):
        # The process that had the lock before may have built this very engine.
        (now,) = plan_builds(bundle, [item.key])
        if now.current and not force:
            return _current(bundle, now, options)
        record = _build(bundle, library, options, item.key, progress)
    engine = CachedEngine(folder=engine_folder(bundle, item.key), record=record)
    return Outcome(engine=engine, built=True, reason="forced" if item.current else item.reason)


def _current(bundle: Bundle, item: PlannedBuild, options: BuildOptions) -> Outcome:
    engine = read_engine(bundle, item.key)
    state = f"the engine {engine.folder.name} of an earlier build stays"
    _check_floor(bundle, engine.record.key, engine.record.audit, options, state)
    return Outcome(engine=engine, built=False, reason=item.reason)


def _build(
    bundle: Bundle, library: BuildLibrary, options: BuildOptions, key: EngineKey, progress: Progress
) -> EngineRecord:
    with new_engine(bundle, key) as partial:
        built = build_engine(
            library,
            bundle.graph_path(key.graph),
            partial / PLAN_FILE,
            sizes=key.sizes,
            targets=key.targets,
            flags=key.flags,
            precision=key.precision,
            timing_cache=options.timing_cache,
            progress=progress,
        )
        _check_floor(bundle, key, built.audit, options, f"no engine of {key.graph} was written")
        return record_engine(
            partial,
            key,
            audit=built.audit,
            build_s=built.seconds,
            host_memory_bytes=built.host_memory_bytes,
            device_memory_bytes=built.device_memory_bytes,
        )


def _remedy(bundle: Bundle) -> str:
    """What gives a graph that the library has fused attention for."""
    quantization = bundle.manifest.quantization
    if quantization is None:
        return "export another --precision"
    return (
        f"quantize a bundle exported with --precision fp16 or bf16; this one is"
        f" {quantization.scheme} on {quantization.base_precision}"
    )


def _check_floor(
    bundle: Bundle, key: EngineKey, audit: Audit, options: BuildOptions, state: str
) -> None:
    """Refuse too little fused attention; ``state`` says what is in the cache now."""
    if not options.require_fused or key.graph != _AUDITED:
        return
    short = shortfall(audit, options.require_fused)
    if short is not None:
        raise RuntimeFailure(
            f"{bundle.path}: {key.graph}: {short}; {state} (lower --require-fused, or"
            f" {_remedy(bundle)})"
        )
