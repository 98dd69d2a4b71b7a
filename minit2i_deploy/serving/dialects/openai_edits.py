"""What POST /v1/images/edits takes besides the fields of /v1/images/generations.

Source: openai-python 3.57, types/image_edit_params.py: a form with the file ``image``, or several
as ``image[]``, and the file ``mask``, whose transparent pixels are edited.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.serving.engine.edit_images import DEFAULT_STRENGTH, EditSources
from minit2i_deploy.serving.http.errors import HttpError
from minit2i_deploy.serving.http.fields import Field

EDIT_FIELDS: Final = (
    Field(name="image", kind="file", required=True, help="PNG, JPEG or WebP to edit"),
    Field(name="mask", kind="file", help="PNG of the same size; what is transparent is edited"),
    Field(
        name="strength",
        kind="number",
        low=0,
        high=1,
        help=f"how much is new, 1: begins with noise; without a mask {DEFAULT_STRENGTH}",
    ),
    Field(
        name="feather",
        kind="number",
        default=0.0,
        low=0,
        help="pixels over which the border of the mask is softened",
    ),
)


def edit_sources(values: Mapping[str, Any], *, strict: bool) -> tuple[EditSources, tuple[str, ...]]:
    """The files of a request, and a notice where there are more images than one.

    Raises:
        HttpError: 400, several masks, or under ``strict`` several images.
    """
    images, masks = values["image"], values["mask"] or [None]
    if len(masks) > 1:
        raise HttpError(400, f"mask must be one file, got {len(masks)}", param="mask")
    notices: tuple[str, ...] = ()
    if len(images) > 1:
        text = f"the first of {len(images)} images is edited; the others have no effect"
        if strict:
            raise HttpError(400, text, param="image")
        notices = (text,)
    sources = EditSources(
        image=images[0],
        mask=masks[0],
        strength=values["strength"],
        feather=values["feather"],
        new_pixels="transparent",
    )
    return sources, notices
