"""Other weights into an engine, by their names, without building it again."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import GRAPHS
from minit2i_deploy.bundle.weight_replacement import (
    StoredTensor,
    changed_names,
    read_tensor,
    stored_tensors,
)
from minit2i_deploy.engines.cache import (
    CachedEngine,
    EngineKey,
    cached_engines,
    engine_lock,
    write_engine,
)
from minit2i_deploy.engines.fit import (
    Device,
    device_mismatch,
    graph_changes,
    library_mismatch,
    weights_missing,
)
from minit2i_deploy.engines.sidecar import PLAN_FILE, RECORD_FILE
from minit2i_deploy.errors import RuntimeFailure
from minit2i_deploy.io.files import atomic_directory
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.runtimes.tensorrt.engine import Gpu, load_plan
from minit2i_deploy.runtimes.tensorrt.library import RuntimeLibrary

# safetensors' name of a type -> TensorRT's.
_DTYPES: Final = {"F32": "FLOAT", "F16": "HALF", "BF16": "BF16"}
_MOST_NAMED: Final = 3
_ENCODER: Final = GRAPHS[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Refitted:
    """A plan with other weights, and what the library let be replaced.

    Args:
        plan: its bytes.
        num_weights: weights that were replaced.
        constants: names that the engine lists and the graph's weights lack; they stay as they are.
    """

    plan: bytes
    num_weights: int
    constants: tuple[str, ...]


def refittable_engines(
    bundle: Bundle, library: str, version: str, device: Device
) -> dict[str, list[CachedEngine]]:
    """Graph -> engines of the bundle as it is whose weights this library can replace on this GPU.

    Of the text encoder, whose weights stay, only those that hold none yet.

    Raises:
        RuntimeFailure: adapter or denoiser has none.
    """
    refittable: dict[str, list[CachedEngine]] = {graph: [] for graph in GRAPHS}
    for item in cached_engines(bundle):
        if not isinstance(item, CachedEngine):
            continue
        key = item.record.key
        fits = (
            graph_changes(bundle, key) is None
            and library_mismatch(key, library, version) is None
            and device_mismatch(key, device) is None
        )
        if fits and (key.flags.strip_weights or (key.flags.refit and key.graph != _ENCODER)):
            refittable[key.graph].append(item)
    for graph, engines in refittable.items():
        if not engines and graph != _ENCODER:
            raise RuntimeFailure(
                f"{bundle.path}: {graph} has no engine of {library} {version} for {device} that can"
                f" be refitted; run: minit2i build {bundle.path} --engine"
                f" {library.replace('_', '-')} --refit"
            )
    return refittable


def refit_plan(
    gpu: Gpu, cached: CachedEngine, bundle: Bundle, changed: Collection[str]
) -> Refitted:
    """A plan of the same engine that holds another bundle's weights.

    Args:
        gpu: that loads it; the library refits on the GPU only.
        cached: an engine that was built to be refitted.
        bundle: whose weights are put in; its graphs are those of the engine.
        changed: names of the weights that differ from the engine's.

    Raises:
        RuntimeFailure: the engine cannot be refitted, or not in a weight that changed.
    """
    library = gpu.library
    graph = cached.record.key.graph
    path = bundle.data_path(graph)
    stored = stored_tensors(path)
    engine = load_plan(gpu, cached)
    refitter = _refitter(gpu, engine, cached)
    listed = set(refitter.get_all_weights())
    unlisted = sorted(set(changed) - listed)
    if unlisted:
        raise RuntimeFailure(
            f"{cached.plan}: {_some(unlisted)} cannot be replaced in this engine, so it would keep "
            "old weights; run minit2i build on the new bundle"
        )
    names = sorted(listed & set(stored))
    # Alive until the refit is done: the library reads them where they are.
    arrays = {name: np.array(read_tensor(path, stored[name])) for name in names}
    for name in names:
        weights = _weights(library.module, arrays[name], stored[name])
        if not refitter.set_named_weights(name, weights):
            raise library.failure(f"{cached.plan}: {name} is refused")
    missing = list(refitter.get_missing_weights())
    if missing:
        raise RuntimeFailure(
            f"{cached.plan}: the engine also asks for {_some(missing)}, which are not among the "
            "bundle's weights; run minit2i build on the new bundle"
        )
    if not refitter.refit_cuda_engine():
        raise library.failure(f"{cached.plan}: the refit failed")
    return Refitted(
        plan=_serialize(gpu, engine, cached),
        num_weights=len(names),
        constants=tuple(sorted(listed - set(stored))),
    )


def refit_bundle(
    name: str,
    device: int,
    base: Bundle,
    bundle: Bundle,
    progress: Progress = no_progress,
) -> list[CachedEngine]:
    """Refit every engine of one bundle that can be into engines of another.

    Engines of the text encoder, whose weights are the same in both, are taken over as they are, and
    filled where they hold no weights. Engines of other GPUs are left out.

    Args:
        name: of the library, ``tensorrt`` or ``tensorrt_rtx``.
        device: index of the GPU.
        base: has engines that were built with ``--refit``.
        bundle: same graphs, other weights.
        progress: called with the share that is done.

    Returns:
        the new engines.

    Raises:
        MissingDependencyError: the library or cuda-python is not installed.
        RuntimeFailure: there is no such engine, or it cannot be refitted.
    """
    library = RuntimeLibrary.open(name)
    gpu = Gpu(library, device)
    refitted: list[CachedEngine] = []
    try:
        here = Device(capability=gpu.driver.capability, name=gpu.driver.name)
        engines = refittable_engines(base, library.name, library.version, here)
        total = sum(map(len, engines.values()))
        for graph, group in engines.items():
            # The text encoder is the same in both; what is put into it is all of its own.
            changed = [] if graph == _ENCODER else sorted(changed_names(base, bundle, graph))
            for cached in group:
                refitted.append(_refit_into(gpu, cached, bundle, changed))
                progress(len(refitted) / total)
    finally:
        gpu.settle()
        gpu.close()
    _take_over(base, bundle)
    return refitted


def _refit_into(
    gpu: Gpu, cached: CachedEngine, bundle: Bundle, changed: Collection[str]
) -> CachedEngine:
    began = time.perf_counter()
    old = cached.record
    plan = refit_plan(gpu, cached, bundle, changed).plan
    key = EngineKey.of(
        bundle,
        old.key.graph,
        sizes=old.key.sizes,
        # What a refit stores holds all weights.
        flags=dataclasses.replace(old.key.flags, strip_weights=False),
        library=old.key.library,
        library_version=old.key.library_version,
        targets=old.key.targets,
    )
    with engine_lock(bundle, key):
        return write_engine(
            bundle,
            key,
            plan,
            audit=old.audit,
            build_s=time.perf_counter() - began,
            refitted_from=old.fingerprint,
        )


def _take_over(base: Bundle, bundle: Bundle) -> None:
    """Copy the engines of the text encoder, which no refit changes; one without weights is none."""
    for item in cached_engines(base):
        if not isinstance(item, CachedEngine) or item.record.key.graph != _ENCODER:
            continue
        if weights_missing(item.record.key) is None:
            target = bundle.path / item.folder.relative_to(base.path)
            if graph_changes(bundle, item.record.key) is None and not target.exists():
                with atomic_directory(target) as partial:
                    for file in (PLAN_FILE, RECORD_FILE):
                        shutil.copyfile(item.folder / file, partial / file)


def _refitter(gpu: Gpu, engine: Any, cached: CachedEngine) -> Any:
    library = gpu.library
    try:
        refitter = library.module.Refitter(engine, library.logger)
    except (RuntimeError, TypeError) as error:
        raise library.failure(f"{cached.plan}: cannot be refitted") from error
    return refitter


def _weights(trt: Any, raw: np.ndarray, stored: StoredTensor) -> Any:
    kind = getattr(trt.DataType, _DTYPES[stored.dtype])
    return trt.Weights(kind, raw.ctypes.data, int(np.prod(stored.shape)))


def _serialize(gpu: Gpu, engine: Any, cached: CachedEngine) -> bytes:
    library = gpu.library
    config = engine.create_serialization_config()
    flags = library.module.SerializationFlag
    # Without it the new plan could not be refitted back; older versions always keep that.
    if hasattr(flags, "INCLUDE_REFIT"):
        config.set_flag(flags.INCLUDE_REFIT)
    plan = engine.serialize_with_config(config)
    if plan is None:
        raise library.failure(f"{cached.plan}: the refitted engine cannot be stored")
    return bytes(plan)


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


__all__ = ["Refitted", "refit_bundle", "refit_plan", "refittable_engines"]
