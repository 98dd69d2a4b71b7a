"""Images that clients send to be edited: bounded, and read one at a time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.editing.input_images import InputImages, NewPixels, read_edit
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_headers import has_transparent_pixels, size_in_header

# 100 MB once decoded; more than that from a client would be another's memory.
MAX_PIXELS: Final = 32_000_000
# How much is new of an image without a mask, as in AUTOMATIC1111's web UI.
DEFAULT_STRENGTH: Final = 0.75


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SentEdit:
    """An edit that was read: its images, and the feather that its record names."""

    images: InputImages
    feather: float = 0.0


NO_EDIT: Final = SentEdit(images=InputImages())


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

    def read(self, bundle: Bundle) -> SentEdit:
        """Decode them.

        Raises:
            UsageError: one is no usable image, or is too large, or they do not fit together.
        """
        for name, data in (("image", self.image), ("mask", self.mask)):
            if data is not None:
                _check_size(name, data)
        if self.mask is None and not has_transparent_pixels(self.image):
            strength = DEFAULT_STRENGTH if self.strength is None else self.strength
            return SentEdit(images=read_edit(bundle, init_image=self.image, strength=strength))
        images = read_edit(
            bundle,
            inpaint=self.image,
            mask=self.mask,
            strength=self.strength,
            feather=self.feather,
            new_pixels=self.new_pixels,
        )
        return SentEdit(images=images, feather=self.feather)


class EditReader:
    """Decodes off the event loop, one request at a time, so that memory has a bound."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)

    async def read(self, bundle: Bundle, sources: EditSources) -> SentEdit:
        """As ``EditSources.read``."""
        async with self._turn:
            return await asyncio.to_thread(sources.read, bundle)


def _check_size(name: str, data: bytes) -> None:
    try:
        width, height = size_in_header(data)
    except ValueError as error:
        raise UsageError(f"{name} cannot be read as an image: {error}") from error
    if width * height > MAX_PIXELS:
        raise UsageError(
            f"{name} has {width} x {height} pixels; at most {MAX_PIXELS / 1e6:g} megapixels are "
            "taken; scale it down"
        )
