"""The fields of a manifest: frozen dataclasses that refuse values outside their rules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.checksum import SHA256
from minit2i_deploy.solvers.noise import GENERATOR

# In the order in which generating runs them.
GRAPHS: Final = ("text_encoder", "text_adapter", "transformer")
# Also the order of a parity table's columns.
PRECISIONS: Final = ("fp32", "bf16", "fp16", "int8", "fp8", "mxfp8", "fp4")
DTYPES: Final = (
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int8",
    "uint8",
    "bool",
)
# Every official code truncates x * 127.5 + 128; another rounding is another flavour.
ROUNDINGS: Final = ("truncate",)
# Of a graph whose INT8 products are right on every processor; see GraphQuantization.
PAIR_SAFE: Final = "pair-safe"
# The scheme whose graphs OpenVINO runs fast and other engines slowly.
INT8_OPENVINO: Final = "int8-openvino"
# Providers of ONNX Runtime whose own operators a bundle may have, by our names.
ONLY_FOR: Final = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """One input or output: numpy dtype name, and sizes or the names of free ones."""

    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        if not all(size and (isinstance(size, str) or size > 0) for size in self.shape):
            raise ValueError(f"shape must have positive sizes or names, got {list(self.shape)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphInfo:
    """One ONNX graph: its file, the precision of its matrix products, its opset and its I/O."""

    path: str
    precision: str
    opset: int
    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]

    def __post_init__(self) -> None:
        _one_of("precision", self.precision, PRECISIONS)
        if self.opset < 1:
            raise ValueError(f"opset must be at least 1, got {self.opset}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerInfo:
    """The tokenizer's folder, and the most tokens a prompt has (end token included)."""

    path: str
    prompt_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """Checksum and size of a file: 64 hexadecimal digits, and bytes."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        check_digest("sha256", self.sha256)
        if self.bytes < 0:
            raise ValueError(f"bytes must be at least 0, got {self.bytes}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A table of the bundle and the guidance scale that goes with it."""

    table: str
    guidance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Flavour:
    """The official code that this bundle reproduces, where the official codes differ."""

    name: str
    a_min: float
    guidance: float
    steps: int
    rounding: str

    def __post_init__(self) -> None:
        _one_of("rounding", self.rounding, ROUNDINGS)
        if not 0.0 < self.a_min <= 1.0 or self.steps < 1:
            raise ValueError(
                f"expected 0 < a_min <= 1 and steps >= 1, got a_min {self.a_min} and steps"
                f" {self.steps}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """The start noise: its generator, and the standard deviation it is scaled to."""

    generator: str
    scale: float

    def __post_init__(self) -> None:
        _one_of("generator", self.generator, (GENERATOR,))
        if self.scale <= 0.0:
            raise ValueError(f"scale must be positive, got {self.scale}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the weights come from and which tools, at which versions, made the bundle."""

    checkpoint_sha256: str
    checkpoint_form: str
    tools: Mapping[str, str]
    lora_sha256: str | None = None

    def __post_init__(self) -> None:
        check_digest("checkpoint_sha256", self.checkpoint_sha256)
        if self.lora_sha256 is not None:
            check_digest("lora_sha256", self.lora_sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterInfo:
    """One of several LoRA adapters that were merged, or one at another strength than 1."""

    sha256: str
    strength: float

    def __post_init__(self) -> None:
        check_digest("sha256", self.sha256)


def check_one_pass_guidance(scale: float | None) -> None:
    """Refuse a scale that no adapter gives in one pass.

    Raises:
        ValueError: not a finite number above 1.
    """
    if scale is not None and not 1.0 < scale < math.inf:
        raise ValueError(f"one_pass_guidance must be a finite number above 1, got {scale}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One measured difference, its bound, their unit, and what was compared with what."""

    name: str
    measured: float
    bound: float
    unit: str
    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphQuantization:
    """One quantized graph: formats in words, number of quantized layers, excluded layers.

    The words PAIR_SAFE in ``scheme`` mean that no sum of two products with weights saturates where
    pairs are added in 16 bits.
    """

    scheme: str
    layers: int
    excluded: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """How a bundle was quantized.

    Args:
        scheme: name of the scheme.
        base_precision: of the source bundle's step graph.
        source_digest: of the source bundle.
        calibration_sha256: of the calibration file; None where the scheme needs none.
        smoothing: strength, 0 to 1, by the first layer of every group; empty without smoothing.
        graphs: the quantized graphs, by the names of ``Manifest.graphs``.
    """

    scheme: str
    base_precision: str
    source_digest: str
    calibration_sha256: str | None
    smoothing: Mapping[str, float]
    graphs: Mapping[str, GraphQuantization]

    def __post_init__(self) -> None:
        _one_of("base_precision", self.base_precision, ("fp32", "bf16", "fp16"))
        check_digest("source_digest", self.source_digest)
        if self.calibration_sha256 is not None:
            check_digest("calibration_sha256", self.calibration_sha256)
        if not all(0.0 <= strength <= 1.0 for strength in self.smoothing.values()):
            raise ValueError("every smoothing strength must be in 0..1")
        for name in self.graphs:
            _one_of("graph", name, GRAPHS)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSwitch:
    """A second step graph, which runs the rows from time t on, 0 noise to 1 data."""

    t: float
    graph: GraphInfo

    def __post_init__(self) -> None:
        if not 0.0 < self.t < 1.0:
            raise ValueError(f"t must be a time between 0 and 1, got {self.t}")


def check_only_for(name: str | None) -> None:
    """Check a manifest's ``only_for``; None is every engine.

    Raises:
        ValueError: an engine that bundles are not made for.
    """
    if name is not None:
        _one_of("only_for", name, ONLY_FOR)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_digest(name: str, value: str) -> None:
    """Refuse what is no sha256.

    Raises:
        ValueError: not 64 hexadecimal digits.
    """
    if not SHA256.fullmatch(value):
        raise ValueError(f"{name} must be 64 hexadecimal digits, got {value[:70]!r}")
