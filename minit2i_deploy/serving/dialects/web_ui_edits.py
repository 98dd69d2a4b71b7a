"""What POST /sdapi/v1/img2img takes besides the fields of txt2img.

Source: AUTOMATIC1111/stable-diffusion-webui, modules/api/api.py (img2imgapi) and
modules/processing.py (StableDiffusionProcessingImg2Img).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.serving.engine.edit_images import DEFAULT_STRENGTH, EditSources
from minit2i_deploy.serving.http.errors import HttpError
from minit2i_deploy.serving.http.fields import Field

# inpainting_fill: 0 the colors around, 1 the image itself, 2 noise, 3 nothing.
_ORIGINAL: Final = 1

IMG2IMG_FIELDS: Final = (
    Field(name="init_images", kind="array", required=True, help="base64 of the image to edit"),
    Field(name="mask", kind="string", help="base64 of an image of its size; white is edited"),
    Field(
        name="denoising_strength",
        kind="number",
        default=DEFAULT_STRENGTH,
        low=0,
        high=1,
        help="how much of the image is new",
    ),
    Field(
        name="inpainting_fill",
        kind="integer",
        default=_ORIGINAL,
        low=0,
        high=3,
        help="what the masked part begins with: 1 the image, others noise",
    ),
    Field(name="mask_blur", kind="number", default=0.0, low=0, help="pixels of a soft border"),
    # A number or, as some clients send it, a boolean.
    Field(name="inpainting_mask_invert", kind="any", default=0, help="1: black is edited"),
)


def img2img_sources(values: Mapping[str, Any]) -> EditSources:
    """The files of a request.

    Raises:
        HttpError: 422, no image, several, or broken base64.
    """
    images, invert = values["init_images"], values["inpainting_mask_invert"]
    if len(images) != 1:
        raise HttpError(
            422, f"init_images must have one image, got {len(images)}", param="init_images"
        )
    if invert not in (0, 1):
        raise HttpError(
            422, "inpainting_mask_invert must be 0 or 1", param="inpainting_mask_invert"
        )
    mask = values["mask"] or None
    begins_with_image = mask is None or values["inpainting_fill"] == _ORIGINAL
    return EditSources(
        image=_file("init_images", images[0]),
        mask=None if mask is None else _file("mask", mask),
        strength=values["denoising_strength"] if begins_with_image else None,
        feather=0.0 if mask is None else values["mask_blur"],
        new_pixels="black" if invert else "white",
    )


def _file(name: str, text: Any) -> bytes:
    """A file from base64, perhaps in a data URL."""
    if not isinstance(text, str):
        raise HttpError(422, f"{name} must be base64, got {type(text).__name__}", param=name)
    content = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise HttpError(422, f"{name} is not base64: {error}", param=name) from error
