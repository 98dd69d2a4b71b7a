"""Pictures become squares as the official transforms make them; damaged ones are told apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from PIL import Image

from minit2i_deploy.training.data import to_network_range
from minit2i_deploy.training.data.images import decode_image, resize_and_crop
from minit2i_deploy.training.data.sample import BadSampleError
from tests.helpers.shard_files import picture

checked_square = jaxtyped(typechecker=beartype)(resize_and_crop)


def kernel(x: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel with a = -0.5 (Keys, 1981)."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resized(values: np.ndarray, length: int) -> np.ndarray:
    """The first axis scaled to ``length`` with a kernel widened by the scale, in float64."""
    scale = len(values) / length
    wide = max(scale, 1.0)
    centres = (np.arange(length) + 0.5) * scale - 0.5
    weights = kernel((np.arange(len(values))[None] - centres[:, None]) / wide)
    weights /= weights.sum(1, keepdims=True)
    return np.tensordot(weights, values, axes=1)


def official(values: np.ndarray, size: int, first: int) -> np.ndarray:
    """Resize of the shorter side, axis ``first`` before the other, and centre crop."""
    rows, columns = lengths = [
        int(size * side / min(values.shape[:2])) for side in values.shape[:2]
    ]
    full = values.astype(np.float64)
    for axis in (first, 1 - first):
        moved = resized(np.moveaxis(full, axis, 0), lengths[axis])
        # Pillow rounds to bytes between its two passes.
        full = np.moveaxis(np.clip(np.round(moved), 0, 255), 0, axis)
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    return full[top : top + size, left : left + size]


@pytest.mark.parametrize(
    "shape", [(40, 57), (57, 40), (33, 33), (9, 14), (16, 16), (16, 31), (64, 21)]
)
def test_squares_are_the_official_transforms(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    values = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    actual = checked_square(Image.fromarray(values), 16)
    assert actual.shape == (16, 16, 3) and actual.dtype == np.uint8
    # Newer versions of Pillow take the cheaper pass first.
    errors = [
        np.abs(actual.astype(np.int64) - official(values, 16, first)).max() for first in (0, 1)
    ]
    assert min(errors) <= 1  # Pillow's weights are integers; measured 0


def test_a_square_of_the_right_size_is_not_changed() -> None:
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(resize_and_crop(Image.fromarray(values), 16), values)


def test_pixels_reach_the_network_in_minus_one_to_one() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    values = to_network_range(images)
    assert values.shape == (1, 3, 16, 16) and values.dtype == torch.float32
    expected = np.arange(256, dtype=np.float64) / 127.5 - 1
    error = np.abs(values[0, 1].reshape(-1).numpy() - expected).max()
    assert error <= 1e-7  # measured 6.0e-8
    assert values.min() == -1 and values.max() == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_every_form_is_read(form: str) -> None:
    image = decode_image(picture(10, (12, 9), form))
    assert image.mode == "RGB" and image.size == (12, 9)
    assert np.abs(np.asarray(image, np.int64) - 54).max() <= 2  # lossy forms; measured 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16", "CMYK", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    form = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    Image.new(mode, (8, 6)).save(buffer, format=form)
    assert decode_image(buffer.getvalue()).mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_lie_on_white(mode: str) -> None:
    """The hidden color of a transparent pixel is not what a person sees."""
    black = np.zeros((2, 2, 4), np.uint8)
    black[0, :, 3] = 255
    black[1, 1, 3] = 128
    image, buffer = Image.fromarray(black), io.BytesIO()
    if mode == "P":
        image = Image.new("P", (2, 2))
        image.putpalette([0, 0, 0, 10, 10, 10])
        image.putdata([0, 0, 1, 1])
        image.save(buffer, format="PNG", transparency=1)
        expected = [0, 0, 255, 255]
    else:
        image.convert(mode).save(buffer, format="PNG")
        expected = [0, 0, 255, 127]
    decoded = np.asarray(decode_image(buffer.getvalue())).reshape(-1, 3)
    assert (decoded == np.array(expected)[:, None]).all()


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    decoded = np.asarray(decode_image(buffer.getvalue()))
    assert decoded[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (decoded == decoded[..., :1]).all()


def test_a_image_is_turned_as_it_says() -> None:
    pixels = np.zeros((6, 8, 3), dtype=np.uint8)
    pixels[:, :2] = 255
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise is wanted
    image.save(buffer, format="PNG", exif=exif)
    turned = np.asarray(decode_image(buffer.getvalue()))
    assert turned.shape == (8, 6, 3) and turned[:2].min() == 255 and turned[2:].max() == 0


@pytest.mark.parametrize(
    "data", [b"", b"no picture", picture(3)[:200], picture(3, form="PNG")[:60]], ids=len
)
def test_a_corrupt_image_is_a_bad_sample(data: bytes) -> None:
    with pytest.raises(BadSampleError, match="image cannot be read"):
        decode_image(data)


def test_a_image_too_large_to_be_honest_is_a_bad_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(picture(1, (12, 12))).size == (12, 12)
    with pytest.raises(BadSampleError, match="image cannot be read"):
        decode_image(picture(1, (20, 20)))
