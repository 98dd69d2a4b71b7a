"""The cache of built engines in a bundle: list, find, plan, write.

``engines/<fingerprint>/`` holds engine.plan and engine.json. The manifest does not list the folder,
and it may be deleted at any time. This module needs no engine library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import ENGINES
from minit2i_deploy.engines.fit import Device, EngineRequest, graph_changes, mismatch
from minit2i_deploy.engines.key import (
    PORTABLE,
    BuildFlags,
    EngineKey,
    differences,
    fingerprint,
    native_target,
)
from minit2i_deploy.engines.sidecar import (
    PLAN_FILE,
    RECORD_FILE,
    Audit,
    EngineRecord,
    check_plan,
    read_record,
)
from minit2i_deploy.errors import BundleError, RuntimeFailure
from minit2i_deploy.io.files import (
    atomic_directory,
    atomic_file,
    atomic_write_bytes,
    remove_leftovers,
    sha256_file,
)
from minit2i_deploy.io.lock import output_lock

# Of both libraries, where none was asked for.
_DEFAULT_LEVEL: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedEngine:
    """A complete engine: its folder and what engine.json says."""

    folder: Path
    record: EngineRecord

    @property
    def plan(self) -> Path:
        """The file that the library loads."""
        return self.folder / PLAN_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class CorruptEngine:
    """A folder of the cache that holds no complete engine, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSearch:
    """The engine to use, or None, and a line on each engine that cannot be used."""

    engine: CachedEngine | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedBuild:
    """What a build would do for one key.

    Args:
        key: of the engine.
        fingerprint: of the key.
        current: the engine exists and is complete.
        reason: why it would be built, or that it is current.
    """

    key: EngineKey
    fingerprint: str
    current: bool
    reason: str


def cached_engines(bundle: Bundle) -> Iterator[CachedEngine | CorruptEngine]:
    """Every engine in the bundle's cache, by name; of the plans only the size is checked."""
    root = bundle.path / ENGINES
    folders = sorted(root.iterdir()) if root.is_dir() else []
    for folder in folders:
        # Names that begin with a dot are locks and unfinished builds.
        if folder.is_dir() and not folder.name.startswith("."):
            yield _examine(folder, hashed=False)


def find_engine(bundle: Bundle, graph: str, request: EngineRequest) -> EngineSearch:
    """The best engine for a request, its plan checked by hash.

    Of several, one for this GPU model is preferred to a portable one, then the one whose largest
    sizes are smallest, then the one whose usual sizes are nearest to those requested, then one
    without TF32, then one that cannot be refitted, then the one of the higher optimization level.

    Raises:
        UsageError: the bundle has no such graph.
    """
    bundle.graph_path(graph)
    matches, reasons = [], []
    for item in cached_engines(bundle):
        if isinstance(item, CorruptEngine):
            reasons.append(f"{ENGINES}/{item.folder.name}: {item.reason}")
        elif item.record.key.graph == graph:
            reason = mismatch(bundle, item.record.key, request)
            if reason is None:
                matches.append(item)
            else:
                reasons.append(f"{ENGINES}/{item.folder.name}: {reason}")
    # Plans may have gigabytes, so that only the one to be used is hashed.
    for item in sorted(matches, key=lambda each: _preference(each, request)):
        checked = _examine(item.folder, hashed=True)
        if isinstance(checked, CachedEngine):
            return EngineSearch(engine=checked, reasons=tuple(reasons))
        reasons.append(f"{ENGINES}/{item.folder.name}: {checked.reason}")
    return EngineSearch(engine=None, reasons=tuple(reasons))


def require_engine(bundle: Bundle, graph: str, request: EngineRequest) -> CachedEngine:
    """``find_engine``'s engine, or an error that says why there is none and how to build it.

    Raises:
        RuntimeFailure: no engine fits the request.
        UsageError: the bundle has no such graph.
    """
    search = find_engine(bundle, graph, request)
    if search.engine is not None:
        return search.engine
    why = "; ".join(search.reasons) or "none was built"
    raise RuntimeFailure(
        f"{bundle.path}: no engine of {graph} can be used ({why}); run: minit2i build"
        f" {bundle.path} --engine {request.library.replace('_', '-')}"
    )


def plan_builds(bundle: Bundle, keys: Sequence[EngineKey]) -> tuple[PlannedBuild, ...]:
    """What a build of these keys would do, and why; existing plans of these keys are hashed."""
    present = list(cached_engines(bundle))
    return tuple(_planned(bundle, key, present) for key in keys)


def read_engine(bundle: Bundle, key: EngineKey) -> CachedEngine:
    """The engine of a key, its plan checked by hash.

    Raises:
        BundleError: it is missing or corrupt.
    """
    folder = engine_folder(bundle, key)
    item = _examine(folder, hashed=True)
    if isinstance(item, CorruptEngine):
        raise BundleError(f"{folder}: {item.reason}; run minit2i build")
    return item


def engine_folder(bundle: Bundle, key: EngineKey) -> Path:
    """Folder of the engine of a key, whether it exists or not."""
    return bundle.path / ENGINES / fingerprint(key)


def engine_lock(
    bundle: Bundle, key: EngineKey, *, wait_s: float = 0.0
) -> AbstractContextManager[None]:
    """A lock that the builder of the engine of a key holds.

    Raises:
        Minit2iError: another process holds it; its pid is named.
        UsageError: the bundle's folder may not be written.
    """
    return output_lock(engine_folder(bundle, key), wait_s=wait_s)


@contextlib.contextmanager
def new_engine(bundle: Bundle, key: EngineKey) -> Iterator[Path]:
    """Yield a folder for engine.plan and ``record_engine``; the caller holds ``engine_lock``.

    If the block succeeds the folder is moved into the cache, else it is removed.

    Raises:
        UsageError: the folder may not be written.
        Minit2iError: the disk failed or is full.
    """
    folder = engine_folder(bundle, key)
    remove_leftovers(folder)
    # What stands there has the same key: it is corrupt, or a rebuild was requested.
    with atomic_directory(folder, overwrite=True) as partial:
        yield partial


def record_engine(
    partial: Path,
    key: EngineKey,
    *,
    audit: Audit,
    build_s: float,
    host_memory_bytes: int | None = None,
    device_memory_bytes: int | None = None,
    refitted_from: str | None = None,
) -> EngineRecord:
    """Hash the plan in a folder of ``new_engine`` and write engine.json beside it.

    Args:
        partial: the folder.
        key: of the engine.
        audit: as EngineRecord has it, like the rest.

    Raises:
        UsageError: the folder may not be written.
        Minit2iError: the disk failed or is full.
    """
    plan = partial / PLAN_FILE
    record = EngineRecord(
        key=key,
        words=key.describe(),
        plan_sha256=sha256_file(plan),
        plan_bytes=plan.stat().st_size,
        audit=audit,
        refitted_from=refitted_from,
        build_s=round(build_s, 3),
        host_memory_bytes=host_memory_bytes,
        device_memory_bytes=device_memory_bytes,
    )
    atomic_write_bytes(partial / RECORD_FILE, record.to_bytes())
    return record


def write_engine(
    bundle: Bundle,
    key: EngineKey,
    plan: memoryview | bytes,
    *,
    audit: Audit,
    build_s: float,
    refitted_from: str | None = None,
) -> CachedEngine:
    """Write a plan that is in memory to the cache, as ``new_engine`` and ``record_engine`` do."""
    with new_engine(bundle, key) as partial:
        with atomic_file(partial / PLAN_FILE) as file, file.open("wb") as stream:
            stream.write(plan)
        record = record_engine(
            partial, key, audit=audit, build_s=build_s, refitted_from=refitted_from
        )
    return CachedEngine(folder=engine_folder(bundle, key), record=record)


def _examine(folder: Path, *, hashed: bool) -> CachedEngine | CorruptEngine:
    try:
        record = read_record(folder)
        check_plan(folder, record, hashed=hashed)
    except BundleError as error:
        return CorruptEngine(folder=folder, reason=str(error).removeprefix(f"{folder}/"))
    return CachedEngine(folder=folder, record=record)


def _preference(
    item: CachedEngine, request: EngineRequest
) -> tuple[int, int, int, bool, bool, int, str]:
    """Sort key: how specific the targets are, largest sizes, distance of usual sizes, flags, name.

    A refittable engine gives up optimizations that fold its weights.
    """
    key = item.record.key
    kinds = ("native:", "sm")
    kind = min(
        next((rank for rank, start in enumerate(kinds) if target.startswith(start)), len(kinds))
        for target in key.targets
    )
    largest = sum(values[2] for values in key.sizes.values())
    distance = sum(abs(key.sizes[n][1] - v) for n, v in request.sizes.items() if n in key.sizes)
    flags = key.flags
    level = _DEFAULT_LEVEL if flags.optimization_level is None else flags.optimization_level
    return kind, largest, distance, flags.tf32, flags.refit, -level, item.folder.name


def _planned(
    bundle: Bundle, key: EngineKey, present: Sequence[CachedEngine | CorruptEngine]
) -> PlannedBuild:
    name = fingerprint(key)
    same = next((item for item in present if item.folder.name == name), None)
    if same is not None:
        checked = _examine(same.folder, hashed=True)
        if isinstance(checked, CachedEngine):
            return PlannedBuild(key=key, fingerprint=name, current=True, reason="current")
        return PlannedBuild(key=key, fingerprint=name, current=False, reason=checked.reason)
    others = [
        differences(item.record.key, key)
        for item in present
        if isinstance(item, CachedEngine) and item.record.key.graph == key.graph
    ]
    # The engine with the fewest differences says best what has changed.
    nearest = min(others, key=len, default=["none was built"])
    reason = "; ".join(nearest)
    return PlannedBuild(key=key, fingerprint=name, current=False, reason=reason)


__all__ = [
    "PORTABLE",
    "Audit",
    "BuildFlags",
    "CachedEngine",
    "CorruptEngine",
    "Device",
    "EngineKey",
    "EngineRecord",
    "EngineRequest",
    "EngineSearch",
    "PlannedBuild",
    "cached_engines",
    "engine_folder",
    "engine_lock",
    "find_engine",
    "fingerprint",
    "graph_changes",
    "native_target",
    "new_engine",
    "plan_builds",
    "read_engine",
    "record_engine",
    "require_engine",
    "write_engine",
]
