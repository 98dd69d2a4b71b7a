"""`Record`: the settings of a generated image, stored in the image to reproduce it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from minit2i_deploy._version import __version__
from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.edit_record import EditRecord, VariationRecord, values_digest
from minit2i_deploy.io.image_formats import read_image_metadata
from minit2i_deploy.io.strict_json import decode, parse_json
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.prompts import Mix

FIELD: Final = "minit2i"
# Records of images without an edit or mixed noise stay those that older programs read.
PLAIN_VERSION: Final = 1
EDIT_VERSION: Final = 2
SIZE_VERSION: Final = 3
# Fields that each version adds.
_ADDED_FIELDS: Final = {EDIT_VERSION: ("edit", "variation"), SIZE_VERSION: ("size",)}
# As many as the web UI shows of a model's hash.
_SHORT_HASH_DIGITS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One text of a prompt and its weight."""

    text: str
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The settings of one image.

    Args:
        bundle: digest of the bundle.
        checkpoint: sha256 of the checkpoint that the bundle was made from.
        guidance: scale of classifier-free guidance.
        negative: prompt in place of the unconditional branch, or None.
        noise: sha256 of the start noise (float32, little endian, C order), or None if the noise is
            that of the seed.
        prompt: the texts with their weights.
        runtime: name of the runtime.
        seed: of the noise.
        table: the solver table's JSON, or None if the bundle has it under its name.
        table_name: its name.
        table_sha256: hash of its canonical JSON.
        version: of this package.
        format_version: PLAIN_VERSION, EDIT_VERSION or SIZE_VERSION.
        edit: the input images of an edited image.
        variation: the other seed of mixed noise.
        size: width and height in pixels, where they are not the bundle's own.
    """

    bundle: str
    checkpoint: str
    guidance: float
    negative: str | None
    noise: str | None
    prompt: tuple[Part, ...]
    runtime: str
    seed: int
    table: object
    table_name: str
    table_sha256: str
    version: str = __version__
    format_version: int = PLAIN_VERSION
    edit: EditRecord | None = None
    variation: VariationRecord | None = None
    size: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        table: Table,
        *,
        prompt: Mix,
        seed: int,
        guidance: float,
        negative: str | None,
        noise: np.ndarray | None,
        runtime: str,
        edit: EditRecord | None = None,
        variation: VariationRecord | None = None,
        size: tuple[int, int] | None = None,
    ) -> Record:
        """The record of one image.

        Args:
            bundle: that generated it.
            table: the complete solver table, whatever row an edit starts at.
            noise: its start noise, [3, H, W], or None if its seeds say it.
            prompt, seed, guidance, negative, runtime, edit, variation, size: as in ``Record``.
        """
        is_plain = edit is None and variation is None
        version = PLAIN_VERSION if is_plain else EDIT_VERSION
        text = table.to_json()
        in_bundle = table.name in bundle.manifest.tables and bundle.table(table.name) == table
        return cls(
            bundle=bundle.digest,
            checkpoint=bundle.manifest.provenance.checkpoint_sha256,
            guidance=guidance,
            negative=negative,
            noise=None if noise is None else noise_digest(noise),
            prompt=tuple(Part(text=part, weight=weight) for part, weight in prompt.parts),
            runtime=runtime,
            seed=seed,
            table=None if in_bundle else json.loads(text),
            table_name=table.name,
            table_sha256=_sha256(text),
            format_version=version if size is None else SIZE_VERSION,
            edit=edit,
            variation=variation,
            size=size,
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Record:
        """Read an image's record.

        Raises:
            UsageError: no PNG, JPEG or WebP, no record in it, an unknown version, or a corrupt
                record.
        """
        text = read_image_metadata(path).get(FIELD)
        if text is None:
            raise UsageError(
                f"{path}: has no field {FIELD!r}; name an image that minit2i generate wrote, not "
                "a grid"
            )
        try:
            record: Record = decode(cls, _complete(parse_json(text.encode("utf-8"))), FIELD)
        except ValueError as error:
            raise UsageError(f"{path}: its record cannot be read: {error}") from error
        return record

    def mix(self) -> Mix:
        """The prompt.

        Raises:
            UsageError: its weights are outside the rules of a mix.
        """
        return Mix(parts=tuple((part.text, part.weight) for part in self.prompt))

    def solver(self, bundle: Bundle) -> Table:
        """The table: the one in the record, or the bundle's of that name.

        Raises:
            UsageError: it is missing or corrupt, or is not the image's table.
        """
        if self.table is None:
            table = bundle.table(self.table_name)
        else:
            table = Table.from_json(json.dumps(self.table))
        digest = _sha256(table.to_json())
        if digest != self.table_sha256:
            raise UsageError(
                f"table {table.name} has sha256 {digest[:8]}.., but the image was generated with "
                f"{self.table_sha256[:8]}..; name a table with --table"
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, without the fields of later versions than its own."""
        values = dataclasses.asdict(self)
        for names in _later_fields(self.format_version):
            for name in names:
                del values[name]
        return values

    @property
    def prompt_text(self) -> str:
        """The prompt for people: its text, or the texts of a mix with their weights."""
        if len(self.prompt) == 1:
            return self.prompt[0].text
        return " + ".join(f"{part.weight:g} x {part.text!r}" for part in self.prompt)

    def fields(self, num_rows: int | None = None) -> dict[str, str]:
        """PNG text fields: the record under FIELD, in ASCII, and the same for people.

        ``parameters`` is the text that AUTOMATIC1111's web UI writes and that other programs
        read. No field is called ``prompt`` or ``workflow``: ComfyUI takes those for its own JSON.

        Args:
            num_rows: of the table, which those programs show as steps; None leaves it out.
        """
        readable: Mapping[str, str | None] = {
            "parameters": self._parameters(num_rows),
            "negative": self.negative,
            "seed": str(self.seed) if self.noise is None else None,
            "size": None if self.size is None else "x".join(map(str, self.size)),
            "variation": None
            if self.variation is None
            else f"{self.variation.amount!r} of seed {self.variation.seed}",
            **({} if self.edit is None else self.edit.readable()),
            "noise": None if self.noise is None else f"sha256 {self.noise}",
            "table": self.table_name,
            "guidance": repr(self.guidance),
            "bundle": self.bundle,
            "runtime": self.runtime,
            "version": f"minit2i-deploy {self.version}",
        }
        record = json.dumps(self.to_dict(), sort_keys=True, allow_nan=False)
        return {key: value for key, value in readable.items() if value is not None} | {
            FIELD: record
        }

    def _parameters(self, num_rows: int | None) -> str:
        lines = [self.prompt_text]
        if self.negative is not None:
            lines.append(f"Negative prompt: {self.negative}")
        settings = {
            "Steps": None if num_rows is None else str(num_rows),
            "Sampler": self.table_name,
            "CFG scale": repr(self.guidance),
            "Seed": str(self.seed) if self.noise is None else None,
            "Model hash": self.bundle[:_SHORT_HASH_DIGITS],
            **self._edit_parameters(),
            "Version": f"minit2i-deploy {self.version}",
        }
        pairs = (f"{key}: {value}" for key, value in settings.items() if value is not None)
        return "\n".join([*lines, ", ".join(pairs)])

    def _edit_parameters(self) -> dict[str, str | None]:
        """Names as AUTOMATIC1111's web UI writes them, and its readers know them."""
        edit, variation = self.edit or EditRecord(), self.variation
        return {
            "Variation seed": None if variation is None else str(variation.seed),
            "Variation seed strength": None if variation is None else repr(variation.amount),
            "Denoising strength": None if edit.strength is None else repr(edit.strength),
            "Mask blur": f"{edit.feather:g}" if edit.feather else None,
        }


def noise_digest(noise: np.ndarray) -> str:
    """sha256 of an array's float32 values, little endian, in C order."""
    return values_digest(noise)


def _complete(values: Any) -> Any:
    """A record's JSON with the fields that its version lacks."""
    version = values.get("format_version") if isinstance(values, dict) else None
    if version not in (PLAIN_VERSION, *_ADDED_FIELDS):
        raise ValueError(
            f"format_version is {version!r}, expected {PLAIN_VERSION} to {SIZE_VERSION}"
        )
    # A field that the version does not have is left for the decoder to refuse.
    absent = [names for names in _later_fields(version) if values.keys().isdisjoint(names)]
    return values | dict.fromkeys(name for names in absent for name in names)


def _later_fields(version: int) -> list[tuple[str, ...]]:
    """The fields that each later version adds."""
    return [names for since, names in _ADDED_FIELDS.items() if since > version]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
