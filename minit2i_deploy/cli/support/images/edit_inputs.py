"""Read the input images of minit2i generate, and compare them with a record's."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.images.generate_options import GenerateOptions
from minit2i_deploy.editing.edit import Edit
from minit2i_deploy.editing.input_images import read_edit
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.edit_record import EditRecord
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.solvers.start import start_table
from minit2i_deploy.solvers.table import Table

_NAMES: Final = {"init_image": "init image", "known": "image to inpaint", "mask": "mask"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EditInputs:
    """An edit of every image: arguments of ``generate``, and what the records say of it."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    record: EditRecord | None = None


def read_inputs(options: GenerateOptions, bundle: Bundle, record: Record | None) -> EditInputs:
    """Read the images that the options name, with what a record says of the rest.

    Raises:
        UsageError: images, options, bundle and record that do not fit together.
    """
    recorded = None if record is None else record.edit
    requested = options.edit
    if recorded is not None:
        _check_named(options, recorded)
        requested = dataclasses.replace(
            requested,
            strength=recorded.strength if requested.strength is None else requested.strength,
            feather=recorded.feather if requested.feather is None else requested.feather,
            outpaint=recorded.outpaint if requested.outpaint is None else requested.outpaint,
        )
    if options.noise is not None and requested.strength is not None:
        raise UsageError(
            "--noise and --strength are mutually exclusive; a seed gives the noise in an image"
        )
    feather = requested.feather or 0.0
    images = read_edit(
        bundle,
        init_image=requested.init_image,
        strength=requested.strength,
        inpaint=requested.inpaint,
        mask=requested.mask,
        outpaint=requested.outpaint,
        feather=feather,
    )
    edit = Edit.of(bundle, 1, **images.arguments()).record()
    if edit is None:
        return EditInputs()
    edit = dataclasses.replace(edit, feather=float(feather), outpaint=requested.outpaint)
    if recorded is not None:
        _check_hashes(options, recorded, edit)
    for note in images.notes:
        sys.stderr.write(f"minit2i: {note}\n")
    return EditInputs(arguments=images.arguments(), record=edit)


def check_start(inputs: EditInputs, table: Table) -> None:
    """Refuse, before the work, a strength at which a table cannot start.

    Raises:
        UsageError: there is no such start.
    """
    strength = inputs.arguments.get("strength")
    if strength is None:
        return
    try:
        start_table(table, 1.0 - strength)
    except UsageError as error:
        raise UsageError(
            f"--strength {strength:g} starts the table at 1 - strength, but {error}"
        ) from error


def _check_named(options: GenerateOptions, recorded: EditRecord) -> None:
    inpaints = recorded.known is not None
    digest = recorded.known or recorded.init_image
    file = options.edit.inpaint if inpaints else options.edit.init_image
    if file is None and digest is not None:
        what, option = (
            ("an image to inpaint", "--inpaint with that file (and --mask with its mask)")
            if inpaints
            else ("an init image", "--init-image with that file")
        )
        raise UsageError(
            f"{options.source_image}: generated from {what} (sha256 {digest[:8]}..); add {option}"
        )


def _check_hashes(options: GenerateOptions, recorded: EditRecord, actual: EditRecord) -> None:
    replaced = set()
    if options.edit.outpaint is not None:
        replaced |= {"known", "mask"}
    if options.edit.feather is not None:
        replaced.add("mask")
    for name, what in _NAMES.items():
        expected, value = getattr(recorded, name), getattr(actual, name)
        if expected is not None and value != expected and name not in replaced:
            given = "none is given" if value is None else f"the one given has {value[:8]}.."
            raise UsageError(
                f"{options.source_image}: its {what} has sha256 {expected[:8]}.., but {given}; "
                "name the file that it was generated from"
            )
