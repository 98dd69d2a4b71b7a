"""What is asked of an image file before it is decoded for use."""

from __future__ import annotations

import io
import warnings
from typing import Final

from minit2i_deploy.io.image_input import FORMATS

_OPAQUE: Final = 255
_MAX_CHARACTERS: Final = 120


def size_in_header(data: bytes) -> tuple[int, int]:
    """Width and height as a file's header says them; no pixel is decoded.

    Raises:
        ValueError: of no known format.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Of large images, which the caller refuses.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.size
    except Exception as error:  # Pillow's readers raise anything on corrupt headers
        raise ValueError(" ".join(str(error).split())[:_MAX_CHARACTERS]) from error


def has_transparent_pixels(data: bytes) -> bool:
    """Whether some pixels are not opaque, which an alpha channel alone does not say.

    False of a file that cannot be read; decoding it for use says why.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if not image.has_transparency_data:
                return False
            alpha = image.convert("RGBA").getchannel("A")
            return alpha.getextrema() != (_OPAQUE, _OPAQUE)
    except Exception:
        return False
