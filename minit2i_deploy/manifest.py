"""The manifest: everything a runtime must know about a bundle, as frozen dataclasses.

docs/bundle.md specifies every field. This file holds the fields and the rules between them;
bundle.py holds what concerns the folder on disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.decode import decode, encode, parse_json
from minit2i_deploy.errors import BundleError
from minit2i_deploy.noise import GENERATOR

FORMAT_VERSION: Final = 1
KIND: Final = "minit2i-bundle"
FILE_NAME: Final = "manifest.json"
ENGINES: Final = "engines"
GRAPHS: Final = ("text_encoder", "text_adapter", "transformer")
PRECISIONS: Final = ("fp32", "bf16", "fp16", "int8", "fp8")
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
ROUNDINGS: Final = ("truncate",)
SEAL: Final = "manifest_sha256"

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
BLANK_SEAL: Final = "0" * 64
_PART: Final = re.compile(r"[A-Za-z0-9._+-]+")
_MAX_PATH_CHARACTERS: Final = 240


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorInfo:
    """One input or output: numpy dtype name, and sizes or the names of free ones."""

    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        if not all(size and (isinstance(size, str) or size > 0) for size in self.shape):
            raise ValueError(f"shape {list(self.shape)} needs positive sizes or names")


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
            raise ValueError(f"opset is {self.opset}, but at least 1 is needed")


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerInfo:
    """The tokenizer's folder, and the most tokens a prompt has (end token included)."""

    path: str
    prompt_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """What a file must be: 64 hexadecimal digits and a size in bytes."""

    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        _digest("sha256", self.sha256)
        if self.bytes < 0:
            raise ValueError(f"bytes is {self.bytes}, but a size is needed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A table of the bundle and the guidance scale that goes with it."""

    table: str
    guidance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Flavour:
    """The official code that this bundle imitates, where the official codes differ."""

    name: str
    a_min: float
    guidance: float
    steps: int
    rounding: str

    def __post_init__(self) -> None:
        _one_of("rounding", self.rounding, ROUNDINGS)
        if not 0.0 < self.a_min <= 1.0 or self.steps < 1:
            raise ValueError(
                f"a_min {self.a_min} and steps {self.steps}, but 0 < a_min <= 1 and at least one"
                " step are needed"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """The start noise: generator, and the standard deviation that its unit noise is scaled to."""

    generator: str
    scale: float

    def __post_init__(self) -> None:
        _one_of("generator", self.generator, (GENERATOR,))
        if self.scale <= 0.0:
            raise ValueError(f"scale is {self.scale}, but a positive number is needed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the weights come from and which tools, at which versions, made the bundle."""

    checkpoint_sha256: str
    checkpoint_form: str
    tools: Mapping[str, str]
    lora_sha256: str | None = None

    def __post_init__(self) -> None:
        _digest("checkpoint_sha256", self.checkpoint_sha256)
        if self.lora_sha256 is not None:
            _digest("lora_sha256", self.lora_sha256)


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
    """What became of one graph: formats in words, layers quantised, layers left as they were."""

    scheme: str
    layers: int
    excluded: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers is {self.layers}, but at least 1 is needed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantization:
    """How a bundle was quantised.

    Args:
        scheme: name of the scheme.
        base_precision: of what is not quantised: the source bundle's.
        source_digest: of the source bundle.
        calibration_sha256: of the calibration file; None where the scheme needs none.
        smoothing: strength, 0 to 1, by the first layer of every group; empty without smoothing.
        graphs: what was quantised, by the names of ``Manifest.graphs``.
    """

    scheme: str
    base_precision: str
    source_digest: str
    calibration_sha256: str | None
    smoothing: Mapping[str, float]
    graphs: Mapping[str, GraphQuantization]

    def __post_init__(self) -> None:
        _one_of("base_precision", self.base_precision, ("fp32", "bf16", "fp16"))
        _digest("source_digest", self.source_digest)
        if self.calibration_sha256 is not None:
            _digest("calibration_sha256", self.calibration_sha256)
        if not all(0.0 <= strength <= 1.0 for strength in self.smoothing.values()):
            raise ValueError("a smoothing strength is outside 0..1")
        for name in self.graphs:
            _one_of("graph", name, GRAPHS)


@dataclass(frozen=True, kw_only=True, slots=True)
class LateGraph:
    """A second step graph, which takes the rows from time t on, 0 noise to 1 data."""

    t: float
    graph: GraphInfo

    def __post_init__(self) -> None:
        if not 0.0 < self.t < 1.0:
            raise ValueError(f"t is {self.t}, but a time between 0 and 1 is needed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything about a bundle. ``files`` is filled in by ``bundle.write_manifest``."""

    model: ModelConfig
    variant: str | None
    graphs: Mapping[str, GraphInfo]
    tokenizer: TokenizerInfo
    tables: Mapping[str, str]
    presets: Mapping[str, Preset]
    default_preset: str
    flavour: Flavour
    noise: Noise
    provenance: Provenance
    checks: tuple[Check, ...]
    files: Mapping[str, FileInfo] = dataclasses.field(default_factory=dict)
    quantization: Quantization | None = None
    late: LateGraph | None = None
    format_version: int = FORMAT_VERSION
    kind: str = KIND

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, two spaces, a newline at the end, sealed.

        Raises:
            BundleError: the fields break a rule between them.
        """
        fields = encode(self)
        for name in _OPTIONAL:
            if fields[name] is None:
                del fields[name]
        try:
            check_links(_decode_fields(fields))
        except ValueError as error:
            raise BundleError(f"{FILE_NAME}: cannot be written: {error}") from error
        return seal(fields)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Read ``to_bytes``'s form, strictly.

        Args:
            data: the file's bytes.
            where: its path, for the error.

        Raises:
            BundleError: an unknown version, an unknown or missing field, a value outside its
                rule, or bytes that differ from those sealed.
        """
        try:
            fields = _expect_version(parse_json(data))
            promised = fields.pop(SEAL, None)
            manifest = _decode_fields(fields)
            check_links(manifest)
            _check_seal(data, promised)
        except ValueError as error:
            raise BundleError(f"{where}: {error}; re-run minit2i export") from error
        return manifest


# Fields that stand in a manifest only where they say something.
_OPTIONAL: Final = {"quantization": Quantization, "late": LateGraph}


def seal(fields: Mapping[str, object]) -> bytes:
    """Write fields as canonical JSON whose SEAL is the sha256 of the bytes with SEAL zeroed."""
    text = json.dumps({**fields, SEAL: BLANK_SEAL}, sort_keys=True, indent=2, allow_nan=False)
    blank = f"{text}\n".encode()
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(_seal_line(BLANK_SEAL), _seal_line(digest))


def check_relative(path: str) -> None:
    """Refuse a path that could leave the folder or mean two files on some system.

    Raises:
        ValueError: the path is not parts of letters, digits, dot, dash, plus and underscore
            joined by single slashes, or has a part that is ``.`` or ``..`` or ends in a dot.
    """
    parts = path.split("/")
    plain = all(_PART.fullmatch(part) and not part.endswith(".") for part in parts)
    if not plain or len(path) > _MAX_PATH_CHARACTERS:
        raise ValueError(
            f"file name {path[:80]!r} is refused; names are relative, of letters, digits and"
            " . _ + - with single slashes between"
        )


def check_links(manifest: Manifest) -> None:
    """Check the rules between fields: names are safe, and all that is named is there.

    Raises:
        ValueError: the first rule that is broken.
    """
    _check_file_names(manifest.files)
    if sorted(manifest.graphs) != sorted(GRAPHS):
        raise ValueError(f"graphs are {sorted(manifest.graphs)}, but {sorted(GRAPHS)} are needed")
    tokenizer_file = f"{manifest.tokenizer.path}/tokenizer.json"
    named = {
        **{f"graphs.{name}.path": graph.path for name, graph in manifest.graphs.items()},
        **{f"tables.{name}": path for name, path in manifest.tables.items()},
        "tokenizer.path": tokenizer_file,
    }
    if manifest.late is not None:
        step, late = manifest.graphs["transformer"], manifest.late.graph
        if (late.inputs, late.outputs) != (step.inputs, step.outputs) or late.path == step.path:
            raise ValueError("late.graph needs graphs.transformer's inputs and outputs, own path")
        named["late.graph.path"] = late.path
    for where, path in named.items():
        if path not in manifest.files:
            raise ValueError(f"{where} names {path[:80]!r}, which is not among the files")
    for name, preset in manifest.presets.items():
        if preset.table not in manifest.tables:
            raise ValueError(f"presets.{name} names table {preset.table!r}, which is not there")
    if manifest.default_preset not in manifest.presets:
        raise ValueError(f"default_preset {manifest.default_preset!r} is not among the presets")
    if manifest.tokenizer.prompt_length != manifest.model.prompt_length:
        raise ValueError(
            f"tokenizer.prompt_length {manifest.tokenizer.prompt_length} is not the model's"
            f" {manifest.model.prompt_length}"
        )


def _check_file_names(files: Mapping[str, FileInfo]) -> None:
    folded: dict[str, str] = {}
    for path in files:
        check_relative(path)
        key = path.casefold()
        if key in folded:
            raise ValueError(f"files {folded[key]!r} and {path!r} differ in case only")
        if key == FILE_NAME or key.split("/")[0] == ENGINES:
            raise ValueError(f"file {path!r} must not be listed; it is not part of the promise")
        folded[key] = path


def _expect_version(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError("not an object, so not a manifest")
    if value.get("kind") != KIND:
        raise ValueError(f"kind is {value.get('kind')!r}, but {KIND!r} is needed")
    version = value.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(
            f"format_version is {version!r}, but this program reads {FORMAT_VERSION} (another"
            " version of minit2i-deploy may read it)"
        )
    return value


def _decode_fields(fields: dict[str, object]) -> Manifest:
    """As ``to_bytes`` wrote them; fields that few bundles need stand in theirs alone."""
    rest = {name: value for name, value in fields.items() if name not in _OPTIONAL}
    manifest: Manifest = decode(Manifest, rest | dict.fromkeys(_OPTIONAL), "manifest")
    found = {
        name: decode(kind, fields[name], f"manifest.{name}")
        for name, kind in _OPTIONAL.items()
        if name in fields
    }
    return dataclasses.replace(manifest, **found)


def _seal_line(digest: str) -> bytes:
    return f'"{SEAL}": "{digest}"'.encode("ascii")


def _check_seal(data: bytes, promised: object) -> None:
    if not isinstance(promised, str) or not _SHA256.fullmatch(promised):
        raise ValueError(f"{SEAL} is missing or not 64 hexadecimal digits")
    blank = data.replace(_seal_line(promised), _seal_line(BLANK_SEAL))
    found = hashlib.sha256(blank).hexdigest()
    if found != promised:
        raise ValueError(f"sha256 {found[:8]}.. but sealed as {promised[:8]}.., so it was edited")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, but one of {', '.join(choices)} is needed")


def _digest(name: str, value: str) -> None:
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{name} is {value[:70]!r}, but 64 hexadecimal digits are needed")
