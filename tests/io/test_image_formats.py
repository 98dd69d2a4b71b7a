"""Text fields in PNG, JPEG and WebP files, and what other programs' files look like."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_formats import (
    SUFFIXES,
    check_metadata,
    read_image_metadata,
    save_image,
)

FIELDS = {"parameters": "a \u7d05 circle", "version": "minit2i-deploy 0", "minit2i": '{"a": 1}'}
USER_COMMENT = 0x9286


def noise(size: int = 16) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_fields_come_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    save_image(noise(), path, FIELDS)
    assert read_image_metadata(path) == FIELDS
    # By its content, whatever it is called.
    other = path.rename(tmp_path / "x.bin")
    assert read_image_metadata(other) == FIELDS
    with Image.open(other) as image:
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(noise()).astype(int))
    assert difference.max() <= (40 if suffix in (".jpg", ".jpeg") else 0)


def test_other_programs_find_the_prompt_and_the_program(tmp_path: Path) -> None:
    save_image(noise(), tmp_path / "x.jpg", FIELDS | {"parameters": "a red circle"})
    with Image.open(tmp_path / "x.jpg") as image:
        exif = image.getexif()
        comment = exif.get_ifd(0x8769)[USER_COMMENT]
    assert (exif[0x010E], exif[0x0131]) == ("a red circle", "minit2i-deploy 0")
    assert json.loads(comment.removeprefix(b"ASCII\0\0\0"))["minit2i"] == '{"a": 1}'


@pytest.mark.parametrize(
    "comment",
    [b"", b"ASCII\0\0\0", b"ASCII\0\0\0[1]", b"UNICODE\0a", b"ASCII\0\0\0" + b"[" * 100_000],
)
def test_comments_of_others_hold_no_field(comment: bytes, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[USER_COMMENT] = comment
    noise().save(tmp_path / "x.webp", exif=exif.tobytes())
    assert read_image_metadata(tmp_path / "x.webp") == {}


def test_values_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[USER_COMMENT] = b'ASCII\0\0\0{"a": 1, "b": "two"}'
    noise().save(tmp_path / "x.jpg", exif=exif.tobytes())
    assert read_image_metadata(tmp_path / "x.jpg") == {"b": "two"}


def test_jpeg_holds_64_kb(tmp_path: Path) -> None:
    long = {"minit2i": "x" * 70_000}
    with pytest.raises(UsageError, match=r"x\.jpg: the record has 7\d{4} bytes, but JPEG holds"):
        check_metadata(tmp_path / "x.jpg", long)
    check_metadata(tmp_path / "x.png", long)
    save_image(noise(), tmp_path / "x.webp", long)
    assert read_image_metadata(tmp_path / "x.webp") == long
    fits = {"minit2i": "x" * 65_000}
    save_image(noise(), tmp_path / "x.jpg", fits)
    assert read_image_metadata(tmp_path / "x.jpg") == fits


@pytest.mark.parametrize("data", [b"", b"no image", b"GIF89a\1\0\1\0\0\0\0;"])
def test_what_is_no_image_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(UsageError, match="cannot be read as PNG, JPEG or WebP"):
        read_image_metadata(tmp_path / "x.jpg")
    with pytest.raises(UsageError, match=r"expected a \.png or"):
        save_image(noise(), tmp_path / "x.bmp", {})
