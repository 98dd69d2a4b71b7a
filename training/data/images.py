"""Images for training: decoding, the square crop, and the network's range."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from minit2i_deploy.training.data.sample import BadSampleError


def decode_image(data: bytes) -> Image.Image:
    """Decode an image completely, as RGB and as a person sees it.

    It is rotated by its EXIF orientation, transparent pixels lie on white, and 16 bits are scaled
    to 8.

    Raises:
        BadSampleError: the data is corrupt, no image, or a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and refuses those that are twice as large.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise BadSampleError("image cannot be read", "of no known format") from error
    except Exception as error:  # Pillow's decoders raise anything on corrupt data
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadSampleError("image cannot be read", reason) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255: all but the darkest pixels would be white.
        values = np.asarray(image, np.float64).clip(0, 65535) / 257
        image = Image.fromarray(np.rint(values).astype(np.uint8))
    if image.has_transparency_data:
        # What stands in transparent pixels was never meant to be seen.
        backdrop = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(backdrop, image.convert("RGBA"))
    return image.convert("RGB")


def resize_and_crop(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Scale the shorter side to ``size`` and crop the center.

    Args:
        image: RGB.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3], red, green, blue.

    Source: minit2i-jax utils/input_pipeline.py, torchvision's Resize (bicubic, with antialiasing,
    longer side rounded down) and CenterCrop (offset rounded half to even).
    """
    width, height = image.size
    short = min(width, height)
    scaled = (size * width // short, size * height // short)
    if scaled != image.size:
        image = image.resize(scaled, Image.Resampling.BICUBIC)
    x, y = (round((side - size) / 2) for side in scaled)
    square = image.crop((x, y, x + size, y + size))
    return np.asarray(square, dtype=np.uint8)


def to_network_range(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]: k / 127.5 - 1."""
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
