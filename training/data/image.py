"""From the bytes of a picture file to the square that the network is shown."""

from __future__ import annotations

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from minit2i_deploy.training.data.sample import BadSampleError


def read_picture(data: bytes) -> Image.Image:
    """Decode a whole picture, turned as its EXIF orientation says, as RGB.

    Raises:
        BadSampleError: it is damaged, no picture, or too large to be an honest one.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and refuses those that are twice as large.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return image if image.mode == "RGB" else image.convert("RGB")
    except UnidentifiedImageError as error:
        raise BadSampleError("picture cannot be read", "of no known form") from error
    except Exception as error:  # Pillow's decoders raise whatever the damage leads them to
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise BadSampleError("picture cannot be read", reason) from error


def to_square(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Scale the shorter side to ``size`` and cut the middle out.

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
    left, top = (round((side - size) / 2) for side in scaled)
    square = image.crop((left, top, left + size, top + size))
    return np.asarray(square, dtype=np.uint8)
