"""Images: from the network's float state to bytes, PNG files, animations and grids."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float32, UInt8

from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.io.files import atomic_write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

# Suffix of an animation -> Pillow's format name and the settings that keep most of the image.
_ANIMATIONS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    ".webp": ("WEBP", {"lossless": True}),
    ".gif": ("GIF", {}),
}


def to_uint8(
    x: Float32[np.ndarray, "batch 3 height width"],
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Convert the final state to bytes: clamp(x, -1, 1) * 127.5 + 128, at most 255, truncated.

    Args:
        x: float32 [batch, 3, H, W], -1 black to 1 white; values outside are clamped.

    Returns:
        pixels: uint8 [batch, H, W, 3], 0..255, red, green, blue.

    Raises:
        RuntimeFailure: x holds NaN or infinity.

    Source: minit2i-torch pipeline; minit2i-jax gives the same bytes without the first clamp.
    """
    finite = np.isfinite(x).all(axis=(1, 2, 3))
    if not finite.all():
        raise RuntimeFailure(
            f"image {int(np.argmin(finite))} of the batch holds NaN or infinity; use a higher"
            " precision (fp32) and run minit2i verify"
        )
    scaled = np.clip(x, -1.0, 1.0) * np.float32(127.5) + np.float32(128.0)
    pixels: UInt8[np.ndarray, "batch height width 3"] = (
        np.clip(scaled, 0.0, 255.0).astype(np.uint8).transpose(0, 2, 3, 1)
    )
    return np.ascontiguousarray(pixels)


def to_pil(x: Float32[np.ndarray, "batch 3 height width"]) -> list[Image]:
    """Convert the final state to Pillow images, one for each image of the batch.

    Args:
        x: float32 [batch, 3, H, W], -1 black to 1 white.

    Raises:
        RuntimeFailure: x holds NaN or infinity.
    """
    from PIL import Image

    return [Image.fromarray(pixels) for pixels in to_uint8(x)]


def save_png(image: Image, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write a PNG with text fields, complete or not at all.

    Args:
        image: what to write.
        path: file to write, replaced if it exists.
        metadata: as in ``encode_png``.

    Raises:
        UsageError: a field name or value PNG cannot hold, or a path that cannot be written.
    """
    atomic_write_bytes(path, encode_png(image, metadata, name=path))


def encode_png(
    image: Image, metadata: Mapping[str, str], *, name: str | os.PathLike[str] = "image"
) -> bytes:
    """A PNG file with text fields.

    Fields go to tEXt chunks, or to iTXt where the value is not Latin-1. Compression is the
    fastest: a 512 pixel image takes milliseconds, and some percent more bytes.

    Args:
        image: what to write.
        metadata: field name (1 to 79 Latin-1 characters, as PNG requires) to value.
        name: of the file, for errors.

    Raises:
        UsageError: a field name or value PNG cannot hold.
    """
    from PIL.PngImagePlugin import PngInfo

    fields = PngInfo()
    for key, value in metadata.items():
        if not 1 <= len(key) <= 79 or not key.isprintable() or not _is_latin1(key):
            raise UsageError(f"{name}: PNG field name {key!r} must be 1 to 79 Latin-1 characters")
        if "\0" in value:
            raise UsageError(f"{name}: PNG field {key!r} holds a NUL character; remove it")
        fields.add_text(key, value)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=fields, compress_level=1)
    return buffer.getvalue()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the text fields of a PNG.

    Raises:
        UsageError: the file is missing or is not a complete PNG.
    """
    from PIL.PngImagePlugin import PngImageFile

    try:
        with open(path, "rb") as stream, PngImageFile(stream) as image:
            return {key: str(value) for key, value in image.text.items()}
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as PNG ({error}); name a PNG file") from error


def read_rgb(path: str | os.PathLike[str]) -> UInt8[np.ndarray, "height width 3"]:
    """Read an image file: uint8 [height, width, 3], RGB, 0 to 255.

    Raises:
        UsageError: the file is missing, or is no image.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"{path}: cannot be read as an image ({error})") from error


def check_animation(path: str | os.PathLike[str]) -> None:
    """Refuse a file name with a suffix that ``save_animation`` cannot write.

    Raises:
        UsageError: neither .webp nor .gif, or .webp with a Pillow that was built without it.
    """
    from PIL import Image, features

    suffix = Path(path).suffix.lower()
    if suffix not in _ANIMATIONS:
        raise UsageError(
            f"{path}: expected a .webp or .gif file for an animation, got {suffix or 'no suffix'}"
        )
    Image.init()
    if _ANIMATIONS[suffix][0] not in Image.SAVE_ALL or not (
        suffix == ".gif" or features.check("webp")
    ):
        raise UsageError(f"{path}: this Pillow was built without {suffix}; name a .gif file")


def save_animation(
    images: Sequence[Image], path: str | os.PathLike[str], *, frame_ms: int, last_ms: int
) -> None:
    """Write images as a repeating animation, complete or not at all.

    A .webp file keeps every pixel; a .gif file has 256 colors an image.

    Args:
        images: at least one, all of one size.
        path: .webp or .gif file, replaced if it exists.
        frame_ms: duration of each image but the last.
        last_ms: duration of the last one.

    Raises:
        UsageError: no images, images of several sizes, or a path that cannot be written.
    """
    check_animation(path)
    sizes = sorted({image.size for image in images})
    if len(sizes) != 1:
        raise UsageError(f"{path}: expected images of one size, got {sizes}")
    form, settings = _ANIMATIONS[Path(path).suffix.lower()]
    durations = [frame_ms] * (len(images) - 1) + [last_ms]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format=form,
        save_all=True,
        append_images=list(images[1:]),
        duration=durations if len(images) > 1 else last_ms,
        loop=0,
        **settings,
    )
    atomic_write_bytes(path, buffer.getvalue())


def grid(images: Sequence[Image], columns: int, *, gap: int = 2) -> Image:
    """Arrange images of one size as a contact sheet on white, line by line.

    Args:
        images: at least one.
        columns: images in a line.
        gap: pixels between neighbours.

    Raises:
        UsageError: no images, images of several sizes, columns below 1 or a negative gap.
    """
    from PIL import Image

    sizes = sorted({image.size for image in images})
    if len(sizes) != 1 or columns < 1 or gap < 0:
        raise UsageError(
            "grid: expected images of one size, at least one column and a gap of 0 or more, got"
            f" sizes {sizes}, columns {columns}, gap {gap}"
        )
    width, height = sizes[0]
    used = min(columns, len(images))
    lines = math.ceil(len(images) / columns)
    size = (used * (width + gap) - gap, lines * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for index, image in enumerate(images):
        line, column = divmod(index, columns)
        sheet.paste(image, (column * (width + gap), line * (height + gap)))
    return sheet


def _is_latin1(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True
