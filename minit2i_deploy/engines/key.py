"""`EngineKey`: what an engine is built from and for. Equal keys give equal engines."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.manifest import GRAPHS, TensorInfo
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.strict_json import encode

TENSORRT: Final = "tensorrt"
TENSORRT_RTX: Final = "tensorrt_rtx"
LIBRARIES: Final = (TENSORRT, TENSORRT_RTX)
# Increased whenever a change of this package builds another engine from the same key.
RECIPE: Final = 1
# TensorRT-RTX without a named target: one engine for all GPUs from Ampere on that it supports.
PORTABLE: Final = "portable"
HARDWARE_LEVELS: Final = ("none", "same-capability", "ampere-plus")
FINGERPRINT_DIGITS: Final = 20

_TARGET: Final = re.compile(r"portable|sm[0-9]{2,3}|native:sm[0-9]{2,3}:[ -~]{1,80}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildFlags:
    """Switches of a build that change what the engine is.

    Args:
        refit: its weights can be replaced later.
        strip_weights: it is stored without the weights that a refit sets.
        version_compatible: later versions of the library's major version run it.
        hardware_level: which other GPUs a native engine runs on: none, those of the same compute
            capability, or all from Ampere on.
        workspace_bytes: most scratch memory a kernel may take; None for the library's bound.
        optimization_level: 0 to 5; None for the library's default.
        tf32: float32 matrix products may round their factors to ten bits.
        allow_unfused: attention without a fused kernel is decomposed; float32 graphs always
            allow this.
    """

    refit: bool = False
    strip_weights: bool = False
    version_compatible: bool = False
    hardware_level: str = "none"
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    tf32: bool = False
    allow_unfused: bool = False

    def __post_init__(self) -> None:
        if self.hardware_level not in HARDWARE_LEVELS:
            raise ValueError(
                f"hardware_level: expected one of {', '.join(HARDWARE_LEVELS)}, got"
                f" {self.hardware_level!r}"
            )
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise ValueError(f"workspace_bytes: expected at least 1, got {self.workspace_bytes}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ValueError(f"optimization_level: expected 0 to 5, got {self.optimization_level}")

    def describe(self) -> str:
        """The flags that differ from their defaults, or ``no flags``."""
        parts = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                name = field.name.replace("_", " ")
                parts.append(name if value is True else f"{name} {value}")
        return ", ".join(parts) or "no flags"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineKey:
    """Everything that an engine depends on.

    Args:
        graph: name of the graph in the manifest.
        graph_sha256: of its ONNX file.
        data_sha256: of the weights' file beside it, or None if there is none.
        weights_sha256: of other weights that a refit set, or None.
        precision: of the graph's matrix products, as in the manifest.
        inputs: of the graph.
        outputs: of the graph.
        sizes: free size to its smallest, usual and largest value.
        flags: of the build.
        library: one of LIBRARIES.
        library_version: all its digits.
        targets: ``sm89`` and so on, ``portable``, or ``native:sm90:<name of the GPU>``.
        recipe: RECIPE at the time of the build.
    """

    graph: str
    graph_sha256: str
    data_sha256: str | None
    weights_sha256: str | None
    precision: str
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    sizes: Mapping[str, tuple[int, ...]]
    flags: BuildFlags
    library: str
    library_version: str
    targets: tuple[str, ...]
    recipe: int = RECIPE

    def __post_init__(self) -> None:
        if self.graph not in GRAPHS:
            raise ValueError(f"graph: expected one of {', '.join(GRAPHS)}, got {self.graph!r}")
        if self.library not in LIBRARIES:
            raise ValueError(
                f"library: expected one of {', '.join(LIBRARIES)}, got {self.library!r}"
            )
        for name, values in self.sizes.items():
            if len(values) != 3 or not 1 <= values[0] <= values[1] <= values[2]:
                raise ValueError(
                    f"{name}: expected a smallest, a usual and a largest size in order, got"
                    f" {list(values)}"
                )
        free = free_sizes(self.inputs)
        if set(free) != set(self.sizes):
            raise ValueError(f"expected sizes of {free}, got those of {sorted(self.sizes)}")
        if not self.targets or not all(_TARGET.fullmatch(name) for name in self.targets):
            raise ValueError(f"expected targets such as sm89, got {list(self.targets)}")

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        graph: str,
        *,
        sizes: Mapping[str, tuple[int, ...]],
        flags: BuildFlags,
        library: str,
        library_version: str,
        targets: tuple[str, ...],
        weights_sha256: str | None = None,
    ) -> EngineKey:
        """The key of a bundle's current graph; hashes are read from the manifest.

        Raises:
            UsageError: an unknown graph, or a value outside its rule.
        """
        bundle.graph_path(graph)
        info = bundle.manifest.graphs[graph]
        files = bundle.manifest.files
        data = files.get(bundle.manifest.data_file(info))
        try:
            return cls(
                graph=graph,
                graph_sha256=files[info.path].sha256,
                data_sha256=None if data is None else data.sha256,
                weights_sha256=weights_sha256,
                precision=info.precision,
                inputs=info.inputs,
                outputs=info.outputs,
                sizes={name: tuple(values) for name, values in sizes.items()},
                flags=flags,
                library=library,
                library_version=library_version,
                targets=tuple(sorted(targets)),
            )
        except ValueError as error:
            raise UsageError(f"{bundle.path}: {graph}: {error}") from error

    def describe(self) -> str:
        """One line of text."""
        sizes = ", ".join(f"{name} {describe_size(size)}" for name, size in self.sizes.items())
        weights = "" if self.weights_sha256 is None else f", refitted {self.weights_sha256[:8]}.."
        return (
            f"{self.graph} {self.precision} ({self.graph_sha256[:8]}..{weights}) for"
            f" {' '.join(self.targets)} by {self.library} {self.library_version};"
            f" {sizes or 'no free sizes'}; {self.flags.describe()}"
        )


def fingerprint(key: EngineKey) -> str:
    """The name of an engine's folder: the first digits of the sha256 of the key's JSON."""
    text = json.dumps(encode(key), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:FINGERPRINT_DIGITS]


def differences(old: EngineKey, new: EngineKey) -> list[str]:
    """What differs between two keys, a short text each; empty if they are equal."""
    texts = []
    for field in dataclasses.fields(EngineKey):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after:
            texts.append(_difference(field.name, before, after))
    return texts


def free_sizes(inputs: Mapping[str, TensorInfo]) -> list[str]:
    """Names of the free sizes of some inputs, in order of appearance."""
    names = [size for info in inputs.values() for size in info.shape if isinstance(size, str)]
    return list(dict.fromkeys(names))


def native_target(capability: int, device: str) -> str:
    """The target of an engine that may run only on the GPU model it was built on.

    Args:
        capability: 90 for compute capability 9.0.
        device: the GPU's name as the driver gives it.
    """
    printable = "".join(letter if " " <= letter <= "~" else "?" for letter in device)
    return f"native:sm{capability}:{printable[:80]}"


def describe_size(values: tuple[int, ...]) -> str:
    """``2`` or ``1 to 4, best at 2``."""
    smallest, usual, largest = values
    if smallest == largest:
        return str(smallest)
    return f"{smallest} to {largest}, best at {usual}"


def _difference(name: str, before: object, after: object) -> str:
    if name.endswith("sha256"):
        what = {"graph_sha256": "the graph", "data_sha256": "the weights' file"}
        return f"{what.get(name, 'the refitted weights')} changed"
    if name in {"inputs", "outputs"}:
        return f"the graph's {name} changed"
    if name == "flags":
        assert isinstance(before, BuildFlags) and isinstance(after, BuildFlags)
        return f"flags were {before.describe()}, now {after.describe()}"
    return f"{name.replace('_', ' ')} {_value(before)}, now {_value(after)}"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {describe_size(size)}" for name, size in value.items())
    return " ".join(value) if isinstance(value, tuple) else str(value)
