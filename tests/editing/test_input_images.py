"""Input images and masks: every form of file, its square and its mask, or one line of refusal."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.editing.canvas import Placement
from minit2i_deploy.editing.feather import feathered
from minit2i_deploy.editing.input_images import read_edit
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.image_input import MAX_PIXELS
from tests.helpers.bundles import write_bundle

SIDE = 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("input") / "bundle"))


def random_pixels(height: int = SIDE, width: int = SIDE, bands: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **settings)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    return encoded(Image.fromarray(pixels))


def to_bytes(x: np.ndarray | None) -> np.ndarray:
    """uint8 [H, W, 3] of what the network sees."""
    assert x is not None and x.dtype == np.float32
    return np.rint((x.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)


def half_mask(size: int = SIDE) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[:, size // 2 :] = 255
    return mask


def header_only(width: int, height: int) -> bytes:
    """A PNG that says its size and has almost no pixels."""
    head = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 16)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_an_image_of_the_size_keeps_its_bytes(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(random_pixels()))
    edit = read_edit(bundle, init_image=path, strength=0.25)
    np.testing.assert_array_equal(to_bytes(edit.init_image), random_pixels())
    assert (edit.strength, edit.known, edit.mask, edit.notes) == (0.25, None, None, ())
    assert read_edit(bundle).arguments() == dict.fromkeys(edit.arguments())


FORMS = {
    "RGB": ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"),
    "L": ("PNG", "JPEG", "BMP", "TIFF"),
    "P": ("PNG", "GIF", "BMP", "TIFF"),
    "I;16": ("PNG", "TIFF"),
    "CMYK": ("JPEG", "TIFF"),
}


@pytest.mark.parametrize(
    ("mode", "form"), [(mode, form) for mode, forms in FORMS.items() for form in forms]
)
def test_every_mode_is_read(mode: str, form: str, bundle: Bundle) -> None:
    grey = Image.new("L", (SIDE, SIDE), 102)  # in Pillow's palette, and without black in CMYK
    image = Image.new("I;16", grey.size, 102 * 257) if mode == "I;16" else grey.convert(mode)
    if mode == "P":
        image = grey.convert("RGB").convert("P", palette=Image.Palette.WEB)
    edit = read_edit(bundle, init_image=encoded(image, form), strength=1)
    assert np.abs(to_bytes(edit.init_image).astype(int) - 102).max() <= 2  # JPEG rounds; measured 1


def test_rotation_is_honoured_before_the_mask_is_compared(bundle: Bundle) -> None:
    wide = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    wide[:, : SIDE // 2] = 255
    image = Image.fromarray(wide)
    exif = image.getexif()
    exif[0x0112] = 6  # show it turned by a quarter, clockwise
    mask = np.zeros((2 * SIDE, SIDE), np.uint8)
    mask[: 3 * SIDE // 4] = 255
    edit = read_edit(bundle, inpaint=encoded(image, exif=exif), mask=png(mask))
    # The middle square of an upright image whose first 16 lines are white.
    assert edit.mask is not None and edit.mask[: SIDE // 4].all() and not edit.mask[8:].any()
    assert not to_bytes(edit.known).any()
    assert edit.notes == ("image: 32 x 64 pixels, cropped to 32 x 32",)


def test_a_large_image_and_its_mask_are_scaled_together(bundle: Bundle) -> None:
    pixels = np.zeros((2 * SIDE, 4 * SIDE, 3), np.uint8)
    pixels[:, 2 * SIDE :] = 255
    edit = read_edit(bundle, inpaint=png(pixels), mask=png(pixels[..., 0]))
    assert edit.notes == ("image: 128 x 64 pixels, scaled to 64 x 32, cropped to 32 x 32",)
    known, mask = to_bytes(edit.known)[..., 0], edit.mask
    assert mask is not None and mask.dtype == np.float32
    assert not mask[:, :15].any() and (mask[:, 17:] == 1).all()
    assert known[:, :14].max() == 0 and known[:, 18:].min() == 255


def test_white_black_or_transparent_pixels_are_new(bundle: Bundle) -> None:
    image, mask = png(random_pixels()), half_mask()
    white = read_edit(bundle, inpaint=image, mask=png(mask)).mask
    black = read_edit(bundle, inpaint=image, mask=png(255 - mask), new_pixels="black").mask
    layers = np.concatenate([random_pixels(), 255 - mask[..., None]], axis=2)
    clear = read_edit(bundle, inpaint=image, mask=png(layers), new_pixels="transparent").mask
    strokes = np.dstack([np.full_like(mask, 255)] * 3 + [mask])
    drawn = read_edit(bundle, inpaint=image, mask=png(strokes)).mask
    for one in (white, black, clear, drawn):
        np.testing.assert_array_equal(one, mask / np.float32(255))


def test_transparent_pixels_of_the_image_serve_as_mask(bundle: Bundle) -> None:
    layers = np.concatenate([random_pixels(), 255 - half_mask()[..., None]], axis=2)
    layers[0, 0, 3] = 51
    edit = read_edit(bundle, inpaint=png(layers), strength=0.5)
    assert edit.mask is not None and edit.mask[0, 0] == np.float32(0.8)
    np.testing.assert_array_equal(edit.mask[1:], half_mask()[1:] / np.float32(255))
    # The color under a half transparent pixel is its own; what begins the run lies on white.
    np.testing.assert_array_equal(to_bytes(edit.known)[:, :16], random_pixels()[:, :16])
    assert (to_bytes(edit.init_image)[:, 16:] == 255).all()


@pytest.mark.parametrize(
    ("borders", "size", "left", "top"),
    [
        ((16, 16, 16, 16), (16, 16), 8, 8),
        ((32, 0, 0, 0), (16, 16), 16, 8),  # made square with as much above and below
        ((0, 0, 0, 32), (16, 16), 8, 0),
        ((0, 0, 1, 0), (31, 31), 0, 0),
    ],
)
def test_an_image_is_placed_in_a_larger_canvas(
    borders: tuple[int, ...], size: tuple[int, int], left: int, top: int, bundle: Bundle
) -> None:
    edit = read_edit(bundle, inpaint=png(random_pixels()), outpaint=borders)
    assert edit.mask is not None
    stays = np.argwhere(edit.mask == 0)
    assert stays.min(0).tolist() == [top, left]
    assert (stays.max(0) + 1).tolist() == [top + size[1], left + size[0]]
    assert len(stays) == size[0] * size[1] and (edit.mask[edit.mask != 0] == 1).all()
    resized = Image.fromarray(random_pixels()).resize(size, Image.Resampling.BICUBIC)
    known = to_bytes(edit.known)[top : top + size[1], left : left + size[0]]
    np.testing.assert_array_equal(known, np.asarray(resized))
    assert edit.notes[0].startswith("image: canvas of ")


def test_an_image_that_is_not_square_becomes_so_without_cropping(bundle: Bundle) -> None:
    edit = read_edit(bundle, inpaint=png(random_pixels(SIDE, SIDE // 2)), outpaint=(0, 0, 0, 0))
    assert edit.mask is not None and not edit.mask[:, 8:24].any() and edit.mask[:, :8].all()


@pytest.mark.parametrize("target", [(48, 32), (24, 64), (40, 40)])
@pytest.mark.parametrize("size", [(31, 17), (48, 32), (5, 90)])
def test_a_canvas_takes_the_shape_of_what_is_generated(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    """All of the image is inside, in its own proportions and in the middle of what was added."""
    placement = Placement.of("a", size, (3, 0, 4, 1), target)
    (left, top), (width, height) = (placement.left, placement.top), placement.size
    assert 0 <= left and left + width <= target[0] and 0 <= top and top + height <= target[1]
    scale = min(target[0] / (size[0] + 7), target[1] / (size[1] + 1))
    assert abs(width - scale * size[0]) <= 1 and abs(height - scale * size[1]) <= 1
    middle = (target[0] - scale * (size[0] + 7)) / 2 + scale * 3
    assert abs(left - middle) <= 2 * max(1, scale)


def test_a_canvas_without_bounds_is_placed_exactly() -> None:
    placement = Placement.of("a", (10**30, 10**30), (0, 0, 10**30, 10**30), (SIDE, SIDE))
    assert (placement.size, placement.left) == ((16, 16), 0)


def test_a_feather_falls_with_the_distance_and_leaves_the_open_part() -> None:
    mask = np.zeros((16, 16), np.float32)
    mask[4:8, 4:8] = 1
    mask[5, 5] = 0.5
    soft = feathered(mask, 3)
    rows, columns = np.mgrid[:16, :16]
    marked = np.argwhere(mask > 0)
    squares = ((np.stack([rows, columns], -1)[:, :, None] - marked) ** 2).sum(-1).min(-1)
    expected = np.maximum(mask, np.clip(1 - np.sqrt(squares) / 4, 0, 1))
    np.testing.assert_allclose(soft, expected, atol=1e-7)
    assert (soft[12:] == 0).all() and feathered(mask, 0) is mask
    for pixels in (-1, 17, float("nan")):
        with pytest.raises(UsageError, match="feather must be from 0 to 16 pixels"):
            feathered(mask, pixels)


IMAGE, MASK = png(random_pixels()), png(half_mask())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inpaint": IMAGE}, "image: has no transparent pixels that would be new; add a mask"),
        ({"mask": MASK}, "a mask requires an image to inpaint"),
        ({"strength": 0.5}, "strength requires an init image or an image to inpaint"),
        ({"init_image": IMAGE}, "an init image requires a strength from 0"),
        ({"init_image": IMAGE, "strength": 1.5}, "strength must be from 0 .* got 1.5"),
        ({"init_image": IMAGE, "strength": -0.1}, "strength must be from 0 .* got -0.1"),
        ({"init_image": IMAGE, "strength": float("nan")}, "strength must be from 0 .* got nan"),
        ({"init_image": IMAGE, "inpaint": IMAGE, "strength": 1}, "are mutually exclusive"),
        ({"outpaint": (1, 1, 1, 1)}, "outpaint requires an image"),
        ({"feather": 2}, "feather requires an image"),
        ({"inpaint": IMAGE, "mask": MASK, "feather": 99}, "feather must be from 0 to 32 pixels"),
        ({"inpaint": IMAGE, "outpaint": (8, 8, 8, 8), "strength": 1}, "mutually exclusive"),
        ({"inpaint": IMAGE, "outpaint": (8, 8, 8)}, "expects four numbers .* got 8,8,8"),
        ({"inpaint": IMAGE, "outpaint": (8, 8, 8, -8)}, "at least 0, LEFT,TOP,RIGHT,BOTTOM"),
        ({"inpaint": IMAGE, "outpaint": (0, 0, 0, 0)}, "no border is left to generate"),
        ({"inpaint": IMAGE, "outpaint": (9999, 0, 0, 0)}, "thinner than a pixel"),
        ({"inpaint": IMAGE, "mask": png(half_mask(16))}, "mask: 16 x 16 pixels, but image has 32"),
        ({"inpaint": IMAGE, "mask": png(half_mask() * 0)}, "mask: marks nothing that would be"),
        ({"inpaint": IMAGE, "mask": png(half_mask() | 255)}, "mask: marks everything as new"),
        ({"inpaint": IMAGE, "mask": IMAGE, "new_pixels": "transparent"}, "no transparent pixels"),
        ({"inpaint": b"no image", "mask": MASK}, "image: cannot be read as an image: of no known"),
        ({"inpaint": b"", "mask": MASK}, "image: cannot be read"),
        ({"inpaint": IMAGE[: len(IMAGE) // 2], "mask": MASK}, "image: cannot be read"),
        ({"inpaint": IMAGE, "mask": MASK[:60]}, "mask: cannot be read"),
        ({"inpaint": header_only(10_000, 10_000)}, "10000 x 10000 pixels exceed 64 megapixels"),
        ({"inpaint": header_only(2**31 - 1, 2**31 - 1)}, "image: cannot be read"),
        ({"inpaint": header_only(0, 8)}, "image: cannot be read"),
        ({"inpaint": png(random_pixels(1, 101))}, "101 x 1 pixels are too narrow"),
        ({"init_image": "none.png", "strength": 1}, "none.png: does not exist"),
        ({"init_image": "/dev/zero", "strength": 1}, "/dev/zero: not a file"),
        ({"init_image": ".", "strength": 1}, ".: not a file"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_line(
    arguments: dict[str, Any], message: str, bundle: Bundle
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_edit(bundle, **arguments)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_float_image_and_an_empty_file_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    floats = encoded(Image.new("F", (SIDE, SIDE), 0.5), "TIFF")
    with pytest.raises(UsageError, match="floating-point pixels; save it with 8 or 16 bits"):
        read_edit(bundle, init_image=floats, strength=0.5)
    (tmp_path / "a.png").touch()
    with pytest.raises(UsageError, match=r"a\.png: 0 bytes; expected an image of 1 to"):
        read_edit(bundle, init_image=tmp_path / "a.png", strength=0.5)


def test_a_large_image_is_refused_by_its_header(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(self: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", never)
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(UsageError, match="exceed 64 megapixels; scale it down"):
        read_edit(bundle, init_image=header_only(side, side), strength=0.5)
