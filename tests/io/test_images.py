"""Bytes of pictures by a scalar form, PNG text fields, and the contact sheet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.io import images


def byte_of(value: float) -> int:
    return min(255, math.floor(min(1.0, max(-1.0, value)) * 127.5 + 128))


def test_bytes_follow_the_official_formula() -> None:
    # Multiples of 1/256 are exact in float32, so the scalar form rounds nothing.
    values = np.arange(-320, 320) / 256
    x = np.stack([values, values[::-1], values], axis=0).reshape(1, 3, 20, 32)
    got = images.to_uint8(x.astype(np.float32))
    expected = [[byte_of(v) for v in channel.flat] for channel in x[0]]
    assert got.shape == (1, 20, 32, 3) and got.dtype == np.uint8
    assert got[0].transpose(2, 0, 1).reshape(3, -1).tolist() == expected


def test_ends_and_middle_are_pinned() -> None:
    x = np.array([-9.0, -1.0, 0.0, 1.0, 9.0, 0.999], dtype=np.float32)
    got = images.to_uint8(np.broadcast_to(x, (1, 3, 1, 6)))
    assert got[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]


@pytest.mark.parametrize("sampler", ["euler", "euler_4e_2", "heun", "sde", "euler_clipx0"])
def test_bytes_equal_the_official_pictures(sampler: str, repository: Path) -> None:
    path = repository / "tests" / "golden" / "public" / "arrays" / f"sampler_{sampler}.npz"
    with np.load(path) as golden:
        x = np.ascontiguousarray(golden["x"][-1].transpose(0, 3, 1, 2))
        assert np.array_equal(images.to_uint8(x), golden["images_uint8"])


def test_pictures_keep_the_axes() -> None:
    x = np.full((2, 3, 4, 6), -1, dtype=np.float32)
    x[1, 0, 3, 5] = 1  # red at row 3, column 5
    pictures = images.to_pil(x)
    assert [p.size for p in pictures] == [(6, 4), (6, 4)]
    assert pictures[1].getpixel((5, 3)) == (255, 0, 0)
    assert pictures[0].getextrema() == ((0, 0), (0, 0), (0, 0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = np.zeros((3, 3, 2, 2), dtype=np.float32)
    x[1, 2, 0, 1] = bad
    with pytest.raises(RuntimeFailure, match="image 1 of the batch holds NaN or infinity"):
        images.to_uint8(x)


def test_png_gives_back_pixels_and_fields(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    fields = {"prompt": "a red circle", "other": "\u7d05\u3044\u5186 \u00e9\nline", "empty": ""}
    path = tmp_path / "p.png"
    images.save_png(Image.fromarray(pixels), path, fields)
    assert images.read_metadata(path) == fields
    with Image.open(path) as back:
        assert np.array_equal(np.asarray(back), pixels)
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]
    data = path.read_bytes()
    assert b"tEXtprompt\0a red circle" in data and b"iTXtother\0" in data


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"": "x"}, "field name ''"),
        ({"k" * 80: "x"}, "1 to 79"),
        ({"\u5186": "x"}, "Latin-1"),
        ({"k": "a\0b"}, "field 'k' holds a NUL"),
    ],
)
def test_fields_png_cannot_hold_are_refused(
    fields: dict[str, str], text: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=text):
        images.save_png(Image.new("RGB", (1, 1)), tmp_path / "p.png", fields)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [None, b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", "cut"])
def test_what_is_not_a_whole_png_is_refused(data: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    if data == "cut":
        images.save_png(Image.new("RGB", (64, 64)), path, {"a": "b"})
        data = path.read_bytes()[:50]
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UsageError, match="cannot be read as PNG"):
        images.read_metadata(path)


def test_grid_places_pictures_row_by_row() -> None:
    colours = ["red", "green", "blue"]
    sheet = images.grid([Image.new("RGB", (4, 3), c) for c in colours], 2, gap=2)
    assert sheet.size == (10, 8)
    at = [sheet.getpixel(p) for p in [(0, 0), (3, 2), (4, 0), (6, 0), (0, 5), (9, 7)]]
    red, green, blue, white = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)
    assert at == [red, red, white, green, blue, white]
    assert images.grid([Image.new("RGB", (4, 3))], 6).size == (4, 3)


@pytest.mark.parametrize(
    ("sizes", "columns", "gap"), [([], 2, 2), ([4, 5], 2, 2), ([4], 0, 2), ([4], 1, -1)]
)
def test_grids_that_cannot_be_are_refused(sizes: list[int], columns: int, gap: int) -> None:
    with pytest.raises(UsageError, match="grid: expected images of one size"):
        images.grid([Image.new("RGB", (s, s)) for s in sizes], columns, gap=gap)


def coloured(*colours: str) -> list[Image.Image]:
    return [Image.new("RGB", (6, 4), colour) for colour in colours]


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".GIF"])
def test_an_animation_gives_back_its_frames(suffix: str, tmp_path: Path) -> None:
    frames = coloured("red", "blue", "black")
    path = tmp_path / f"a{suffix}"
    images.save_animation(frames, path, frame_ms=100, last_ms=700)
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as back:
        assert (back.n_frames, back.info["loop"]) == (3, 0)
        durations = []
        for index, frame in enumerate(frames):
            back.seek(index)
            back.load()
            durations.append(back.info["duration"])
            assert np.array_equal(np.asarray(back.convert("RGB")), np.asarray(frame))
    assert durations == [100, 100, 700]


def test_webp_frames_lose_no_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    arrays = rng.integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    path = tmp_path / "a.webp"
    images.save_animation([Image.fromarray(a) for a in arrays], path, frame_ms=10, last_ms=10)
    with Image.open(path) as back:
        for index, array in enumerate(arrays):
            back.seek(index)
            assert np.array_equal(np.asarray(back.convert("RGB")), array)


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_one_frame_is_an_animation_too(suffix: str, tmp_path: Path) -> None:
    images.save_animation(coloured("red"), tmp_path / f"a{suffix}", frame_ms=10, last_ms=20)
    with Image.open(tmp_path / f"a{suffix}") as back:
        assert back.size == (6, 4)


@pytest.mark.parametrize(
    ("frames", "name", "text"),
    [
        (coloured("red"), "a.png", "expected a .webp or .gif file for an animation"),
        ([], "a.gif", "expected images of one size"),
        ([*coloured("red"), Image.new("RGB", (1, 1))], "a.gif", "images of one size"),
    ],
)
def test_animations_that_cannot_be_are_refused(
    frames: list[Image.Image], name: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=text):
        images.save_animation(frames, tmp_path / name, frame_ms=10, last_ms=10)
    assert not list(tmp_path.iterdir())


def test_a_pillow_without_webp_is_detected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    with pytest.raises(UsageError, match="this Pillow was built without"):
        images.check_animation(tmp_path / "a.webp")
    images.check_animation(tmp_path / "a.gif")
