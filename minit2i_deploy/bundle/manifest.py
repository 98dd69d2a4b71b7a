"""The manifest of a bundle: read strictly, written with a checksum, rules between its fields.

docs/reference/bundle.md specifies every field. fields.py has the dataclasses of the fields,
bundle.py the folder on disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.checksum import (
    BLANK_CHECKSUM,
    CHECKSUM_KEY,
    add_checksum,
    verify_checksum,
)
from minit2i_deploy.bundle.fields import (
    DTYPES,
    GRAPHS,
    PRECISIONS,
    ROUNDINGS,
    AdapterInfo,
    Check,
    FileInfo,
    Flavour,
    GraphInfo,
    GraphQuantization,
    Noise,
    Preset,
    Provenance,
    Quantization,
    StepSwitch,
    TensorInfo,
    TokenizerInfo,
    check_digest,
    check_one_pass_guidance,
    check_only_for,
)
from minit2i_deploy.bundle.head_padding import HeadPadding
from minit2i_deploy.bundle.image_sizes import (
    FREE_AXES,
    check_side_bounds,
    free_axes,
    sides_text,
)
from minit2i_deploy.bundle.names import (
    ENGINES,
    FILE_NAME,
    check_file_names,
    check_relative,
    data_file,
)
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import BundleError, UsageError
from minit2i_deploy.io.strict_json import decode, encode, parse_json

__all__ = [
    "BLANK_CHECKSUM",
    "CHECKSUM_KEY",
    "DTYPES",
    "ENGINES",
    "FILE_NAME",
    "FORMAT_VERSION",
    "GRAPHS",
    "KIND",
    "PRECISIONS",
    "READ_VERSIONS",
    "ROUNDINGS",
    "AdapterInfo",
    "Check",
    "FileInfo",
    "Flavour",
    "GraphInfo",
    "GraphQuantization",
    "Manifest",
    "Noise",
    "Preset",
    "Provenance",
    "Quantization",
    "StepSwitch",
    "TensorInfo",
    "TokenizerInfo",
    "add_checksum",
    "check_links",
    "check_relative",
]

FORMAT_VERSION: Final = 2
# Version 1 has another step graph: all images of a call share a row, and no pixel is known.
READ_VERSIONS: Final = (1, FORMAT_VERSION)
KIND: Final = "minit2i-bundle"


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
    switch: StepSwitch | None = None
    padded_head_dim: int | None = None
    only_for: str | None = None
    trained_size: tuple[int, int] | None = None
    side_bounds: tuple[int, int] | None = None
    adapters: tuple[AdapterInfo, ...] | None = None
    one_pass_guidance: float | None = None
    text_encoder_lora_sha256: str | None = None
    format_version: int = FORMAT_VERSION
    kind: str = KIND

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together; the manifest itself and the engine cache do not count."""
        return sum(info.bytes for info in self.files.values())

    @property
    def trained_text(self) -> str:
        """What the weights were trained for, in words, where images have another size."""
        height, width = self.trained_size or self.model.image_shape[1:]
        return f"the weights were trained for {width}x{height}"

    @property
    def sides_text(self) -> str:
        """Least and most pixels of a side, in words; empty where images have one size."""
        return "" if self.side_bounds is None else sides_text(self.side_bounds)

    @property
    def can_edit(self) -> bool:
        """Whether the step graph takes known pixels, and rows of each image: format version 2."""
        return self.format_version >= 2

    @property
    def head_padding(self) -> HeadPadding | None:
        """How the heads of the text adapter and the step graph are padded, or None.

        Raises:
            ValueError: widths that break the rules of ``HeadPadding``; ``check_links`` refuses
                such a manifest.
        """
        if self.padded_head_dim is None:
            return None
        return HeadPadding(head_dim=self.model.head_dim, padded=self.padded_head_dim)

    @property
    def free_axes(self) -> dict[str, tuple[int, int, int]]:
        """Least, usual and greatest pixels of the step graph's free axes; empty where none is."""
        return free_axes(self.model, self.side_bounds)

    def data_file(self, graph: GraphInfo) -> str:
        """Name of the file with the weights of a graph of this bundle."""
        return data_file(graph.path, self.files)

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, two spaces, a newline at the end, with its checksum.

        Raises:
            BundleError: the fields break a rule between them.
        """
        fields = encode(self)
        for name in _OPTIONAL:
            value = fields.pop(name)
            if value is not None:
                fields[_KEYS.get(name, name)] = value
        try:
            check_links(_decode_fields(fields))
        except ValueError as error:
            raise BundleError(f"{FILE_NAME}: cannot be written: {error}") from error
        return add_checksum(fields)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Read ``to_bytes``'s form, strictly.

        Args:
            data: the file's bytes.
            where: its path, for the error.

        Raises:
            BundleError: an unknown version, an unknown or missing field, a value outside its
                rule, or bytes that differ from the checksum.
        """
        try:
            fields = _expect_version(parse_json(data))
            checksum = fields.pop(CHECKSUM_KEY, None)
            manifest = _decode_fields(fields)
            check_links(manifest)
            verify_checksum(data, checksum)
        except ValueError as error:
            raise BundleError(f"{where}: {error}; re-run minit2i export") from error
        return manifest


# Fields that are in a manifest only where they have a value.
_OPTIONAL: Final = {
    "quantization": Quantization,
    "switch": StepSwitch,
    "padded_head_dim": int,
    "only_for": str,
    "trained_size": tuple[int, int],
    "side_bounds": tuple[int, int],
    "adapters": tuple[AdapterInfo, ...],
    "one_pass_guidance": float,
    "text_encoder_lora_sha256": str,
}
# Attributes whose key in the file, fixed by the format, is another word.
_KEYS: Final = {"switch": "late"}


def check_links(manifest: Manifest) -> None:
    """Check the rules between fields: names are safe, and every file that is named is listed.

    Raises:
        ValueError: names the first rule that is broken.
    """
    check_file_names(manifest.files)
    # Raises where the widths break its rules.
    _ = manifest.head_padding
    check_only_for(manifest.only_for)
    check_one_pass_guidance(manifest.one_pass_guidance)
    if manifest.text_encoder_lora_sha256 is not None:
        check_digest("text_encoder_lora_sha256", manifest.text_encoder_lora_sha256)
    if manifest.trained_size is not None and (
        len(manifest.trained_size) != 2 or min(manifest.trained_size) < 1
    ):
        raise ValueError(
            f"trained_size is {list(manifest.trained_size)}, expected height and width in pixels"
        )
    if manifest.side_bounds is not None:
        _check_free_sizes(manifest, manifest.side_bounds)
    if sorted(manifest.graphs) != sorted(GRAPHS):
        raise ValueError(f"graphs must be {sorted(GRAPHS)}, got {sorted(manifest.graphs)}")
    tokenizer_file = f"{manifest.tokenizer.path}/tokenizer.json"
    named = {
        **{f"graphs.{name}.path": graph.path for name, graph in manifest.graphs.items()},
        **{f"tables.{name}": path for name, path in manifest.tables.items()},
        "tokenizer.path": tokenizer_file,
    }
    if manifest.switch is not None:
        before, after = manifest.graphs["transformer"], manifest.switch.graph
        same_io = (before.inputs, before.outputs) == (after.inputs, after.outputs)
        if not same_io or before.path == after.path:
            raise ValueError(
                "late.graph needs graphs.transformer's inputs and outputs, and another path"
            )
        named["late.graph.path"] = after.path
    for where, path in named.items():
        if path not in manifest.files:
            raise ValueError(f"{where} names {path[:80]!r}, which is not in files")
    for name, preset in manifest.presets.items():
        if preset.table not in manifest.tables:
            raise ValueError(f"presets.{name} names table {preset.table!r}, which is not in tables")
    if manifest.default_preset not in manifest.presets:
        raise ValueError(f"default_preset {manifest.default_preset!r} is not in presets")
    if manifest.tokenizer.prompt_length != manifest.model.prompt_length:
        raise ValueError(
            f"tokenizer.prompt_length {manifest.tokenizer.prompt_length} is not the model's"
            f" {manifest.model.prompt_length}"
        )


def _check_free_sizes(manifest: Manifest, bounds: tuple[int, int]) -> None:
    try:
        check_side_bounds(manifest.model, bounds)
    except UsageError as error:
        raise ValueError(f"side_bounds: {error}") from error
    step = manifest.graphs.get("transformer")
    if step is None or "x" not in step.inputs or step.inputs["x"].shape[2:] != FREE_AXES:
        raise ValueError("side_bounds needs a step graph whose input x has free height and width")


def _expect_version(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError("a manifest must be a JSON object")
    if value.get("kind") != KIND:
        raise ValueError(f"kind must be {KIND!r}, got {value.get('kind')!r}")
    version = value.get("format_version")
    if type(version) is not int or version not in READ_VERSIONS:
        raise ValueError(
            f"format_version is {version!r}, but this program reads"
            f" {' and '.join(map(str, READ_VERSIONS))} (another version of minit2i-deploy may"
            " read it)"
        )
    return value


def _decode_fields(fields: dict[str, object]) -> Manifest:
    """Decode what ``to_bytes`` wrote; a key of _OPTIONAL may be missing."""
    optional = {_KEYS.get(name, name): name for name in _OPTIONAL}
    required = {key: value for key, value in fields.items() if key not in optional}
    if unknown := sorted(set(required) & set(_OPTIONAL)):
        raise ValueError(f"manifest: unknown fields {unknown}")
    manifest: Manifest = decode(Manifest, required | dict.fromkeys(_OPTIONAL), "manifest")
    values = {
        name: decode(_OPTIONAL[name], fields[key], f"manifest.{key}")
        for key, name in optional.items()
        if key in fields
    }
    return dataclasses.replace(manifest, **values)
