"""The manifest: everything a runtime must know about a bundle, read strictly and written sealed.

docs/reference/bundle.md specifies every field. This file holds the whole and the rules between
its parts; manifest_parts.py holds the parts, bundle.py what concerns the folder on disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.checksum import BLANK_SEAL, SEAL, check_seal, seal
from minit2i_deploy.bundle.engine_restriction import check_only_for
from minit2i_deploy.bundle.fields import (
    DTYPES,
    GRAPHS,
    PRECISIONS,
    ROUNDINGS,
    Check,
    FileInfo,
    Flavour,
    GraphInfo,
    GraphQuantization,
    LateGraph,
    Noise,
    Preset,
    Provenance,
    Quantization,
    TensorInfo,
    TokenizerInfo,
)
from minit2i_deploy.bundle.head_padding import padding_of
from minit2i_deploy.bundle.names import ENGINES, FILE_NAME, check_file_names, check_relative
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import BundleError
from minit2i_deploy.io.strict_json import decode, encode, parse_json

__all__ = [
    "BLANK_SEAL",
    "DTYPES",
    "ENGINES",
    "FILE_NAME",
    "FORMAT_VERSION",
    "GRAPHS",
    "KIND",
    "PRECISIONS",
    "ROUNDINGS",
    "SEAL",
    "Check",
    "FileInfo",
    "Flavour",
    "GraphInfo",
    "GraphQuantization",
    "LateGraph",
    "Manifest",
    "Noise",
    "Preset",
    "Provenance",
    "Quantization",
    "TensorInfo",
    "TokenizerInfo",
    "check_links",
    "check_relative",
    "seal",
]

FORMAT_VERSION: Final = 1
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
    late: LateGraph | None = None
    padded_head_dim: int | None = None
    only_for: str | None = None
    format_version: int = FORMAT_VERSION
    kind: str = KIND

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together; the manifest itself and the engine cache do not count."""
        return sum(info.bytes for info in self.files.values())

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
            check_seal(data, promised)
        except ValueError as error:
            raise BundleError(f"{where}: {error}; re-run minit2i export") from error
        return manifest


# Fields that stand in a manifest only where they say something.
_OPTIONAL: Final = {
    "quantization": Quantization,
    "late": LateGraph,
    "padded_head_dim": int,
    "only_for": str,
}


def check_links(manifest: Manifest) -> None:
    """Check the rules between fields: names are safe, and all that is named is there.

    Raises:
        ValueError: the first rule that is broken.
    """
    check_file_names(manifest.files)
    padding_of(manifest)
    check_only_for(manifest.only_for)
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
