"""Whether an engine fits a request: graph, weights, library, GPU and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.engines.key import PORTABLE, EngineKey

# Precision -> the first compute capability that has it. Source: CUDA C++ Programming Guide, table
# of tensor core types; support matrices of TensorRT and TensorRT-RTX.
FIRST_CAPABILITY: Final = {
    "fp32": 75,
    "fp16": 75,
    "int8": 75,
    "bf16": 80,
    "fp8": 89,
    "mxfp8": 100,
    "fp4": 100,
}
# Compute capabilities that a portable engine runs on, by NVIDIA's support matrix.
_PORTABLE_CAPABILITIES: Final = (80, 86, 89)
_PORTABLE_FROM: Final = 120
_AMPERE: Final = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A GPU: compute capability 8.9 as 89, and the name the driver gives it."""

    capability: int
    name: str

    def __str__(self) -> str:
        return f"sm{self.capability} ({self.name})"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRequest:
    """What an engine is to be used for.

    Args:
        library: one of ``key.LIBRARIES``.
        library_version: of the library that will load it.
        device: GPU that will run it; None for any.
        sizes: values of free sizes that it must accept; sizes not named may be any.
        weights_sha256: of refitted weights; None for the bundle's weights.
    """

    library: str
    library_version: str
    device: Device | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    weights_sha256: str | None = None


def graph_changes(bundle: Bundle, key: EngineKey) -> str | None:
    """Why an engine is not of the bundle's current graph, or None."""
    info = bundle.manifest.graphs[key.graph]
    files, data_name = bundle.manifest.files, bundle.manifest.data_file(info)
    data = files.get(data_name)
    if files[info.path].sha256 != key.graph_sha256:
        return f"the graph {info.path} changed since it was built"
    if (None if data is None else data.sha256) != key.data_sha256:
        return f"the weights {data_name} changed since it was built"
    return None


def mismatch(bundle: Bundle, key: EngineKey, request: EngineRequest) -> str | None:
    """The first reason why an engine does not fit a request, or None."""
    return (
        graph_changes(bundle, key)
        or _weights_mismatch(key, request)
        or library_mismatch(key, request.library, request.library_version)
        or (None if request.device is None else device_mismatch(key, request.device))
        or _sizes_mismatch(key, request.sizes)
        or weights_missing(key)
    )


def library_mismatch(key: EngineKey, library: str, version: str) -> str | None:
    """Why a library cannot load an engine, or None."""
    if key.library != library:
        return f"built by {key.library}, expected {library}"
    if key.library_version == version:
        return None
    old, new = _numbers(key.library_version), _numbers(version)
    if key.flags.version_compatible and old[:1] == new[:1] and old <= new:
        return None
    return f"built by {library} {key.library_version}, but {version} is installed"


def _weights_mismatch(key: EngineKey, request: EngineRequest) -> str | None:
    if key.weights_sha256 == request.weights_sha256:
        return None
    actual, expected = (
        "the bundle's weights" if digest is None else f"refitted weights {digest[:8]}.."
        for digest in (key.weights_sha256, request.weights_sha256)
    )
    return f"holds {actual}, expected {expected}"


def weights_missing(key: EngineKey) -> str | None:
    """Why an engine that was built without weights cannot run, or None."""
    if key.flags.strip_weights:
        return "was built with --strip-weights and holds none; minit2i refit puts them in"
    return None


def device_mismatch(key: EngineKey, device: Device) -> str | None:
    """Why a GPU cannot run an engine, or None."""
    if any(_runs_on(target, key.flags.hardware_level, device) for target in key.targets):
        return _precision_mismatch(key, device)
    return f"built for {' '.join(key.targets)}, but this GPU is {device}"


def _precision_mismatch(key: EngineKey, device: Device) -> str | None:
    first = FIRST_CAPABILITY[key.precision]
    if device.capability >= first:
        return None
    return f"computes in {key.precision}, which needs sm{first}, but this GPU is {device}"


def _runs_on(target: str, hardware_level: str, device: Device) -> bool:
    if target == PORTABLE:
        known = device.capability in _PORTABLE_CAPABILITIES
        return known or device.capability >= _PORTABLE_FROM
    if not target.startswith("native:"):
        return target == f"sm{device.capability}"
    _, capability, name = target.split(":", 2)
    same = capability == f"sm{device.capability}"
    if hardware_level == "ampere-plus":
        return device.capability >= _AMPERE
    return same and (hardware_level == "same-capability" or name == device.name)


def _sizes_mismatch(key: EngineKey, sizes: Mapping[str, int]) -> str | None:
    for name, value in sizes.items():
        limits = key.sizes.get(name)
        if limits is not None and not limits[0] <= value <= limits[2]:
            return f"accepts {name} from {limits[0]} to {limits[2]}, got {value}"
    return None


def _numbers(version: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"[0-9]+", version)]
