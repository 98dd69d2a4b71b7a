"""Images that clients send to be edited: bounded, and read one at a time."""

from __future__ import annotations

import asyncio
import io
import warnings
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.editing.input_images import InputImages, NewPixels, read_edit
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_input import FORMATS

# 100 MB once decoded; more than that from a client would be another's memory.
MAX_PIXELS: Final = 32_000_000
# How much is new of an image without a mask, as in AUTOMATIC1111's web UI.
DEFAULT_STRENGTH: Final = 0.75
_OPAQUE: Final = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class EditSources:
    """Files of an edit as they came.

    Args:
        image: that is edited.
        mask: of the same size, or None: transparent pixels of the image are new, or without any
            of them all of it.
        strength: how much of the image is new, 0 to 1. None: what is new begins with noise, or
            without a mask with ``DEFAULT_STRENGTH``.
        feather: pixels over which the border of the mask is softened.
        new_pixels: what of the mask is new.
    """

    image: bytes
    mask: bytes | None = None
    strength: float | None = None
    feather: float = 0.0
    new_pixels: NewPixels = "white"

    def read(self, bundle: Bundle) -> InputImages:
        """Decode them.

        Raises:
            UsageError: one is no usable image, or is too large, or they do not fit together.
        """
        for name, data in (("image", self.image), ("mask", self.mask)):
            if data is not None:
                _check_size(name, data)
        if self.mask is None and not _is_transparent(self.image):
            strength = DEFAULT_STRENGTH if self.strength is None else self.strength
            return read_edit(bundle, init_image=self.image, strength=strength)
        return read_edit(
            bundle,
            inpaint=self.image,
            mask=self.mask,
            strength=self.strength,
            feather=self.feather,
            new_pixels=self.new_pixels,
        )


class EditReader:
    """Decodes off the event loop, one request at a time, so that memory has a bound."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def read(self, bundle: Bundle, sources: EditSources) -> InputImages:
        """As ``EditSources.read``."""
        async with self._turn:
            return await asyncio.to_thread(sources.read, bundle)


def _check_size(name: str, data: bytes) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of what is refused below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(f"{name} cannot be read as an image: {reason}") from error
    if width * height > MAX_PIXELS:
        raise UsageError(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS / 1e6:g} megapixels are "
            "taken; scale it down"
        )


def _is_transparent(data: bytes) -> bool:
    """Whether an image has pixels that are not opaque; canvases save an alpha channel always."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if not image.has_transparency_data:
                return False
            alpha = image.convert("RGBA").getchannel("A")
            return alpha.getextrema() != (_OPAQUE, _OPAQUE)
    except Exception:  # read_edit says what is wrong with it
        return False
