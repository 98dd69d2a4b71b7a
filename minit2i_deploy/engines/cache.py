"""The cache of built engines in a bundle: what is there, what fits, what would be rebuilt.

``engines/<fingerprint>/`` holds engine.plan and engine.json. The folder is never listed in the
manifest and may be deleted at any time. Nothing here needs an engine library.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import ENGINES
from minit2i_deploy.engines.fit import Device, Wanted, graph_changes, misfit
from minit2i_deploy.engines.key import (
    PORTABLE,
    BuildFlags,
    EngineKey,
    differences,
    fingerprint,
    native_target,
)
from minit2i_deploy.engines.lock import locked
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
    sha256_file,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An engine that is whole: its folder and what engine.json says."""

    folder: Path
    record: EngineRecord

    @property
    def plan(self) -> Path:
        """The file that the library loads."""
        return self.folder / PLAN_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class Damaged:
    """A folder of the cache that holds no whole engine, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The engine that serves, if one does, and a line on each that does not."""

    found: Found | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """What a build would do for one key.

    Args:
        key: of the engine.
        fingerprint: of the key.
        current: the engine is there and whole.
        reason: why it is to be built, or that it is current.
    """

    key: EngineKey
    fingerprint: str
    current: bool
    reason: str


def engines_of(bundle: Bundle) -> Iterator[Found | Damaged]:
    """Every engine in the bundle's cache, by name; plans are checked for their size only."""
    root = bundle.path / ENGINES
    folders = sorted(root.iterdir()) if root.is_dir() else []
    for folder in folders:
        # What begins with a dot is a lock or a build under way.
        if folder.is_dir() and not folder.name.startswith("."):
            yield _examine(folder, hashed=False)


def find_engine(bundle: Bundle, graph: str, wanted: Wanted) -> Search:
    """The engine that serves best: whole by its hash, and made for what is wanted.

    Among several, one for the very card goes before a portable one, then the one whose greatest
    sizes are smallest, then the one whose usual sizes are nearest to those asked for.

    Raises:
        UsageError: the bundle has no such graph.
    """
    bundle.graph_path(graph)
    fitting, reasons = [], []
    for item in engines_of(bundle):
        if isinstance(item, Damaged):
            reasons.append(f"{ENGINES}/{item.folder.name}: {item.reason}")
        elif item.record.key.graph == graph:
            reason = misfit(bundle, item.record.key, wanted)
            if reason is None:
                fitting.append(item)
            else:
                reasons.append(f"{ENGINES}/{item.folder.name}: {reason}")
    for item in sorted(fitting, key=lambda each: _preference(each, wanted)):
        whole = _examine(item.folder, hashed=True)
        if isinstance(whole, Found):
            return Search(found=whole, reasons=tuple(reasons))
        reasons.append(f"{ENGINES}/{item.folder.name}: {whole.reason}")
    return Search(found=None, reasons=tuple(reasons))


def require_engine(bundle: Bundle, graph: str, wanted: Wanted) -> Found:
    """``find_engine``'s engine, or one line on why there is none and how to build it.

    Raises:
        RuntimeFailure: none serves.
        UsageError: the bundle has no such graph.
    """
    search = find_engine(bundle, graph, wanted)
    if search.found is not None:
        return search.found
    why = "; ".join(search.reasons) or "none was built"
    engine = wanted.library.replace("_", "-")
    raise RuntimeFailure(
        f"{bundle.path}: no engine of {graph} serves ({why}); run: minit2i build {bundle.path}"
        f" --engine {engine}"
    )


def plan_of(bundle: Bundle, keys: Sequence[EngineKey]) -> tuple[Planned, ...]:
    """What a build of these keys would do, and why; plans of these keys are hashed."""
    present = list(engines_of(bundle))
    return tuple(_planned(bundle, key, present) for key in keys)


def read_engine(bundle: Bundle, key: EngineKey) -> Found:
    """The engine of a key, whole by its hash.

    Raises:
        BundleError: it is not there, or damaged.
    """
    folder = engine_folder(bundle, key)
    item = _examine(folder, hashed=True)
    if isinstance(item, Damaged):
        raise BundleError(f"{folder}: {item.reason}; run minit2i build")
    return item


def engine_folder(bundle: Bundle, key: EngineKey) -> Path:
    """Where the engine of a key is or will be."""
    return bundle.path / ENGINES / fingerprint(key)


def engine_lock(
    bundle: Bundle, key: EngineKey, *, wait_s: float = 0.0
) -> AbstractContextManager[None]:
    """Hold the right to build the engine of a key.

    Raises:
        Minit2iError: another process is at it; its pid is named.
        UsageError: the bundle's folder may not be written.
    """
    folder = engine_folder(bundle, key)
    return locked(folder.with_name(f".{folder.name}.lock"), str(folder), wait_s=wait_s)


@contextlib.contextmanager
def new_engine(bundle: Bundle, key: EngineKey) -> Iterator[Path]:
    """Yield a folder to put engine.plan in and to ``seal_engine``; hold ``engine_lock``.

    When the block ends well the folder takes its place in the cache, else it is removed.

    Raises:
        UsageError: the folder may not be written.
        Minit2iError: the disk failed or is full.
    """
    folder = engine_folder(bundle, key)
    _sweep(folder)
    with atomic_directory(folder, overwrite=True) as partial:
        yield partial


def seal_engine(
    partial: Path,
    key: EngineKey,
    *,
    audit: Audit,
    build_s: float,
    host_memory_bytes: int | None = None,
    device_memory_bytes: int | None = None,
    refitted_from: str | None = None,
) -> EngineRecord:
    """Hash the plan in a folder of ``new_engine`` and write the record beside it.

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
        words=key.words(),
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
) -> Found:
    """Put a plan that is in memory into the cache, as ``new_engine`` and ``seal_engine`` do."""
    with new_engine(bundle, key) as partial:
        with atomic_file(partial / PLAN_FILE) as file, file.open("wb") as stream:
            stream.write(plan)
        record = seal_engine(
            partial, key, audit=audit, build_s=build_s, refitted_from=refitted_from
        )
    return Found(folder=engine_folder(bundle, key), record=record)


def _sweep(folder: Path) -> None:
    """Remove what killed builds of this engine left; the lock is ours, so none is under way."""
    for kind in ("partial", "replaced"):
        for left in folder.parent.glob(f".{folder.name}.{kind}-*"):
            with contextlib.suppress(OSError):
                shutil.rmtree(left)


def _examine(folder: Path, *, hashed: bool) -> Found | Damaged:
    try:
        record = read_record(folder)
        check_plan(folder, record, hashed=hashed)
    except BundleError as error:
        return Damaged(folder=folder, reason=str(error).removeprefix(f"{folder}/"))
    return Found(folder=folder, record=record)


def _preference(item: Found, wanted: Wanted) -> tuple[int, int, int, str]:
    key = item.record.key
    kinds = ("native:", "sm")
    kind = min(
        next((rank for rank, start in enumerate(kinds) if target.startswith(start)), len(kinds))
        for target in key.targets
    )
    greatest = sum(values[2] for values in key.sizes.values())
    distance = sum(abs(key.sizes[n][1] - v) for n, v in wanted.sizes.items() if n in key.sizes)
    return kind, greatest, distance, item.folder.name


def _planned(bundle: Bundle, key: EngineKey, present: Sequence[Found | Damaged]) -> Planned:
    name = fingerprint(key)
    same = next((item for item in present if item.folder.name == name), None)
    if same is not None:
        whole = _examine(same.folder, hashed=True)
        if isinstance(whole, Found):
            return Planned(key=key, fingerprint=name, current=True, reason="current")
        return Planned(key=key, fingerprint=name, current=False, reason=whole.reason)
    others = [
        differences(item.record.key, key)
        for item in present
        if isinstance(item, Found) and item.record.key.graph == key.graph
    ]
    nearest = min(others, key=len, default=["none was built"])
    reason = "; ".join(nearest)
    return Planned(key=key, fingerprint=name, current=False, reason=reason)


__all__ = [
    "PORTABLE",
    "Audit",
    "BuildFlags",
    "Damaged",
    "Device",
    "EngineKey",
    "EngineRecord",
    "Found",
    "Planned",
    "Search",
    "Wanted",
    "engine_folder",
    "engine_lock",
    "engines_of",
    "find_engine",
    "fingerprint",
    "graph_changes",
    "native_target",
    "new_engine",
    "plan_of",
    "read_engine",
    "require_engine",
    "seal_engine",
    "write_engine",
]
