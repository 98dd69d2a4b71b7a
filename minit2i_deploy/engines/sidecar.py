"""engine.json, the sidecar of engine.plan: what the engine is and which kernels it has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy._version import __version__
from minit2i_deploy.engines.key import EngineKey, fingerprint
from minit2i_deploy.errors import BundleError
from minit2i_deploy.io.files import sha256_file
from minit2i_deploy.io.strict_json import decode, encode, parse_json

PLAN_FILE: Final = "engine.plan"
RECORD_FILE: Final = "engine.json"
FORMAT_VERSION: Final = 1
UNKNOWN: Final = "unknown"

_MAX_RECORD_BYTES: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """Which kernels an engine consists of.

    Args:
        source: where the counts are from: ``log``, ``inspector`` or ``unknown``; in the last
            case they are zero and mean nothing.
        attention: attention operations of the graph.
        attention_fused: those that one kernel computes.
        softmax_unfused: softmax kernels outside of fused attention.
        gemms: matrix products by type: fp32, tf32, fp16, bf16, int8, fp8, other.
        norms: kernels that average over an axis, most of them norms.
        kernels: all.
    """

    source: str = UNKNOWN
    attention: int = 0
    attention_fused: int = 0
    softmax_unfused: int = 0
    gemms: Mapping[str, int]
    norms: int = 0
    kernels: int = 0


NO_AUDIT: Final = Audit(gemms={})


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRecord:
    """Content of engine.json; the field names are its keys.

    Args:
        key: what the engine was built from and for.
        words: the key as one line.
        plan_sha256: of the plan's bytes.
        plan_bytes: their number.
        audit: the kernels.
        refitted_from: fingerprint of the engine whose weights were replaced, or None.
        build_s: seconds the library took.
        host_memory_bytes: peak resident memory of the building process, or None.
        device_memory_bytes: scratch memory the engine needs beside its weights, or None.
        made_by: version of this package.
        format_version: FORMAT_VERSION.
    """

    key: EngineKey
    words: str
    plan_sha256: str
    plan_bytes: int
    audit: Audit
    refitted_from: str | None = None
    build_s: float = 0.0
    host_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    made_by: str = __version__
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the key, which is the name of the folder."""
        return fingerprint(self.key)

    def to_bytes(self) -> bytes:
        """Sorted JSON, as ``read_record`` reads it."""
        return (json.dumps(encode(self), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def read_record(folder: Path) -> EngineRecord:
    """Read the sidecar in an engine's folder and check it against the folder's name.

    Raises:
        BundleError: it is missing, corrupt, of another format version or of another engine.
    """
    path = folder / RECORD_FILE
    try:
        if path.stat().st_size > _MAX_RECORD_BYTES:
            raise ValueError("too large")
        values = parse_json(path.read_bytes())
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version {version!r}, expected {FORMAT_VERSION}")
        record: EngineRecord = decode(EngineRecord, values, "engine")
    except FileNotFoundError as error:
        raise BundleError(f"{path}: missing") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise BundleError(f"{path}: corrupt ({error})") from error
    if record.fingerprint != folder.name:
        raise BundleError(f"{path}: describes engine {record.fingerprint}; it was moved or edited")
    return record


def check_plan(folder: Path, record: EngineRecord, *, hashed: bool) -> None:
    """Check the plan's size and, if ``hashed``, its sha256.

    Raises:
        BundleError: it is missing, truncated or altered.
    """
    path = folder / PLAN_FILE
    try:
        size = path.stat().st_size
        if size != record.plan_bytes:
            raise BundleError(f"{path}: {size} bytes, expected {record.plan_bytes}")
        if hashed and sha256_file(path) != record.plan_sha256:
            raise BundleError(f"{path}: its sha256 is not that of the plan that was built")
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror})") from error
