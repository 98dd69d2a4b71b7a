"""Images for training: decoding, the square crop, and the network's range."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from minit2i_deploy.io import image_input
from minit2i_deploy.training.data.sample import BadSampleError


def decode_image(data: bytes) -> Image.Image:
    """Decode an image completely, as RGB and as a person sees it.

    It is rotated by its EXIF orientation, transparent pixels lie on white, and 16 bits are scaled
    to 8.

    Raises:
        BadSampleError: the data is corrupt, no image, or a decompression bomb.
    """
    try:
        image = image_input.decode_image(data, max_pixels=None, formats=None)
    except ValueError as error:
        raise BadSampleError("image cannot be read", str(error)) from error
    return image_input.on_white(image)


def resize_and_crop(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Scale the shorter side to ``size`` and crop the center, as editing does.

    Args:
        image: RGB.
        size: side of the result in pixels.

    Returns:
        uint8 [size, size, 3], red, green, blue.
    """
    return np.asarray(image_input.crop_square(image, size), dtype=np.uint8)


def to_network_range(images: Tensor) -> Tensor:
    """uint8 [B, H, W, 3] to float32 [B, 3, H, W] in [-1, 1]: k / 127.5 - 1."""
    return images.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
