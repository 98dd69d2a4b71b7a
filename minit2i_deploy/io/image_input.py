"""Image files in: decoded as a person sees them, bounded by their headers, and cropped.

Functions on bytes raise ValueError with one line; callers wrap it in an error of their own.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

# Decoders of pixels only: Pillow hands some other formats to programs of the system.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# A third of a GB once decoded, and more than most cameras have.
MAX_PIXELS: Final = 64_000_000
MAX_FILE_BYTES: Final = 256 << 20
# With its shorter side scaled to the model's, a longer strip would fill the memory.
MAX_ASPECT: Final = 100


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file.

    Raises:
        UsageError: no such file, an empty or very large one, or no regular file.
    """
    file = Path(path)
    try:
        if not file.exists():
            raise UsageError(f"{path}: does not exist; name an image")
        if not file.is_file():
            raise UsageError(f"{path}: not a file; name an image")
        num_bytes = file.stat().st_size
        if not 0 < num_bytes <= MAX_FILE_BYTES:
            raise UsageError(
                f"{path}: {num_bytes} bytes; expected an image of 1 to {MAX_FILE_BYTES} bytes"
            )
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error


def decode_image(
    data: bytes,
    *,
    max_pixels: int | None = MAX_PIXELS,
    formats: tuple[str, ...] | None = FORMATS,
) -> Image:
    """Decode an image completely, RGBA where any of it may be transparent, else RGB.

    It is rotated by its EXIF orientation, and 16 bits are scaled to 8. Of an animation the first
    frame is taken.

    Args:
        data: of a file.
        max_pixels: the most that its header may say, checked before pixels are decoded; None for
            Pillow's own limit.
        formats: names of Pillow's formats, None for all.

    Raises:
        ValueError: the data is corrupt, no image, or too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and refuses those that are twice as large.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=formats) as image:
                _check_size(image.size, max_pixels)
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _to_8_bits(image)
    except UnidentifiedImageError as error:
        known = "" if formats is None else f"; expected {', '.join(formats)}"
        raise ValueError(f"of no known format{known}") from error
    except Exception as error:  # Pillow's decoders raise anything on corrupt data
        raise ValueError(" ".join(str(error).split())[:120] or type(error).__name__) from error


def on_white(image: Image) -> Image:
    """An image of ``decode_image`` as RGB, what is transparent lying on white."""
    from PIL import Image as PillowImage

    if image.mode != "RGBA":
        return image
    # What stands in transparent pixels was never meant to be seen.
    backdrop = PillowImage.new("RGBA", image.size, "white")
    return PillowImage.alpha_composite(backdrop, image).convert("RGB")


def scaled_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Width and height scaled to cover a target: one side is its own, the other rounded down."""
    (width, height), (target_width, target_height) = size, target
    if target_width * height >= target_height * width:
        return target_width, target_width * height // width
    return target_height * width // height, target_height


def crop_center(image: Image, target: tuple[int, int], *, resample: int | None = None) -> Image:
    """Scale an image until it covers a target and crop the center.

    Args:
        image: of any mode.
        target: width and height of the result in pixels.
        resample: Pillow's filter; None is bicubic.

    Source: minit2i-jax utils/input_pipeline.py for squares, torchvision's Resize (bicubic, with
    antialiasing, longer side rounded down) and CenterCrop (offset rounded half to even).
    """
    from PIL import Image as PillowImage

    scaled = scaled_size(image.size, target)
    if scaled != image.size:
        kernel = PillowImage.Resampling.BICUBIC if resample is None else resample
        image = image.resize(scaled, kernel)
    x, y = (round((length - side) / 2) for length, side in zip(scaled, target, strict=True))
    return image.crop((x, y, x + target[0], y + target[1]))


def crop_square(image: Image, side: int) -> Image:
    """``crop_center`` to a square."""
    return crop_center(image, (side, side))


def to_network(image: Image) -> Float32[np.ndarray, "3 height width"]:
    """An RGB image as the network sees it: float32 [3, H, W], k / 127.5 - 1."""
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels) / np.float32(127.5) - np.float32(1)


def _check_size(size: tuple[int, int], max_pixels: int | None) -> None:
    width, height = size
    if min(size) < 1:
        raise ValueError(f"{width} x {height} pixels, so there is no image in it")
    if max_pixels is not None and width * height > max_pixels:
        raise ValueError(
            f"{width} x {height} pixels exceed {max_pixels / 1e6:g} megapixels; scale it down"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise ValueError(f"{width} x {height} pixels are too narrow; crop it")


def _to_8_bits(image: Image) -> Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise ValueError("floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        from PIL import Image as PillowImage

        # Pillow would clip 16-bit values at 255: all but the darkest pixels would be white.
        values = np.asarray(image, np.float64).clip(0, 65535) / 257
        image = PillowImage.fromarray(np.rint(values).astype(np.uint8))
    return image.convert("RGBA" if image.has_transparency_data else "RGB")
