"""Files of generated images: PNG, JPEG and WebP, each with text fields that can be read back."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_write_bytes
from minit2i_deploy.io.images import encode_png, read_metadata

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
# Pillow's name of the format, and its settings: JPEG near to lossless, WebP lossless.
_FORMATS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
}
# EXIF tags, and the eight bytes that tell the encoding of a comment.
_DESCRIPTION, _SOFTWARE, _EXIF_FOLDER, _USER_COMMENT = 0x010E, 0x0131, 0x8769, 0x9286
_ASCII: Final = b"ASCII\0\0\0"
# A JPEG segment has a length of two bytes, which counts itself and "Exif\0\0".
_MAX_JPEG_EXIF_BYTES: Final = 65_527


def save_image(image: Image, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Write an image with text fields in the format of its suffix, atomically.

    Args:
        image: RGB.
        path: file with one of SUFFIXES, replaced if it exists.
        metadata: name of a field -> its value.

    Raises:
        UsageError: another suffix, fields that the format cannot hold, or a path that cannot be
            written.
    """
    atomic_write_bytes(path, encode_image(image, path, metadata))


def encode_image(image: Image, path: str | os.PathLike[str], metadata: Mapping[str, str]) -> bytes:
    """An image file with text fields in the format of a path's suffix.

    A PNG has a text chunk per field. JPEG and WebP have all fields as one JSON object in EXIF's
    UserComment, and the fields ``parameters`` and ``version`` where viewers show them.

    Args:
        image: RGB.
        path: with one of SUFFIXES; nothing is written there.
        metadata: name of a field -> its value.

    Raises:
        UsageError: another suffix, or fields that the format cannot hold.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        return encode_png(image, metadata, name=path)
    if suffix not in _FORMATS:
        raise UsageError(f"{path}: expected a {' or '.join(SUFFIXES)} file")
    name, settings = _FORMATS[suffix]
    buffer = io.BytesIO()
    image.save(buffer, format=name, exif=_exif(path, metadata), **settings)
    return buffer.getvalue()


def check_metadata(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> None:
    """Refuse text fields that the format of a file cannot hold, before there is an image.

    Raises:
        UsageError: they are too long.
    """
    if Path(path).suffix.lower() in _FORMATS:
        _exif(path, metadata)


def read_image_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the text fields of a PNG, JPEG or WebP file, whatever its suffix.

    Raises:
        UsageError: the file is missing, or is no such image.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.format == "PNG":
                return read_metadata(path)
            comment = image.getexif().get_ifd(_EXIF_FOLDER).get(_USER_COMMENT, b"")
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read as PNG, JPEG or WebP ({error}); name an image"
        ) from error
    return _parsed_comment(comment)


def _exif(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    for tag, field in ((_DESCRIPTION, "parameters"), (_SOFTWARE, "version")):
        if field in metadata:
            exif[tag] = metadata[field]
    exif.get_ifd(_EXIF_FOLDER)[_USER_COMMENT] = _ASCII + json.dumps(dict(metadata)).encode("ascii")
    data: bytes = exif.tobytes()
    is_jpeg = _FORMATS[Path(path).suffix.lower()][0] == "JPEG"
    if is_jpeg and len(data) > _MAX_JPEG_EXIF_BYTES:
        raise UsageError(
            f"{path}: the record has {len(data)} bytes, but JPEG holds {_MAX_JPEG_EXIF_BYTES}; "
            "name a .png or .webp file"
        )
    return data


def _parsed_comment(comment: object) -> dict[str, str]:
    if not isinstance(comment, bytes) or not comment.startswith(_ASCII):
        return {}
    try:
        values = json.loads(comment.removeprefix(_ASCII))
    except (ValueError, RecursionError):
        # Some camera's or editor's own comment.
        return {}
    if not isinstance(values, dict):
        return {}
    return {str(name): value for name, value in values.items() if isinstance(value, str)}
