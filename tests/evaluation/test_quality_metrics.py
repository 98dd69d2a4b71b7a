"""Distances, saturation and seams against literal forms and pictures of known figures."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality.image_metrics import (
    gmsd,
    psnr,
    seam_gradients,
    seam_ratios,
    share_clipped,
    share_outside,
)
from minit2i_deploy.evaluation.shapes import draw_scene, sample_scene
from minit2i_deploy.io.images import to_uint8


def pictures(seed: int, shape: tuple[int, ...] = (2, 3, 13, 10), scale: float = 0.8) -> np.ndarray:
    """Noise, some of it outside [-1, 1]."""
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def test_psnr_of_a_known_offset() -> None:
    a = np.zeros((2, 3, 8, 8), dtype=np.float32)
    b = a + np.array([0.2, 0.02], dtype=np.float32)[:, None, None, None]
    # A tenth and a hundredth of the range; measured 2e-7 off, the rounding of 0.2 to float32.
    assert psnr(a, b) == pytest.approx([20.0, 40.0], abs=1e-5)


def test_psnr_clamps_first_and_is_infinite_for_equals() -> None:
    a = np.full((1, 3, 8, 8), 1.5, dtype=np.float32)
    assert psnr(a, np.ones_like(a))[0] == math.inf
    assert psnr(a, -a)[0] == pytest.approx(0.0, abs=1e-12)


def literal_gmsd(a: np.ndarray, b: np.ndarray) -> float:
    """Equations 1 to 5, pixel by pixel, with the 3x3 kernels written out."""
    maps = []
    for picture in (a, b):
        levels = [[[0.0] * 3 for _ in row] for row in picture[0]]
        for y in range(picture.shape[1]):
            for x in range(picture.shape[2]):
                for channel in range(3):
                    value = min(1.0, max(-1.0, float(picture[channel, y, x])))
                    levels[y][x][channel] = 255 * (value + 1) / 2
        luma = [[0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2] for p in row] for row in levels]
        small = [
            [
                (luma[y][x] + luma[y][x + 1] + luma[y + 1][x] + luma[y + 1][x + 1]) / 4
                for x in range(0, len(luma[0]) - 1, 2)
            ]
            for y in range(0, len(luma) - 1, 2)
        ]
        kernel = [[1 / 3, 0, -1 / 3]] * 3
        actual = {}
        for y in range(1, len(small) - 1):
            for x in range(1, len(small[0]) - 1):
                horizontal = vertical = 0.0
                for j in range(3):
                    for i in range(3):
                        horizontal += kernel[j][i] * small[y + j - 1][x + i - 1]
                        vertical += kernel[i][j] * small[y + j - 1][x + i - 1]
                actual[y, x] = math.sqrt(horizontal**2 + vertical**2)
        maps.append(actual)
    p, q = maps
    similar = [(2 * p[k] * q[k] + 170) / (p[k] ** 2 + q[k] ** 2 + 170) for k in p]
    mean = sum(similar) / len(similar)
    return math.sqrt(sum((value - mean) ** 2 for value in similar) / len(similar))


@pytest.mark.parametrize("size", [(12, 10), (13, 11), (8, 9)])
def test_gmsd_is_the_papers(size: tuple[int, int]) -> None:
    a, b = pictures(0, (2, 3, *size)), pictures(1, (2, 3, *size))
    expected = [literal_gmsd(first, second) for first, second in zip(a, b, strict=True)]
    # Measured 1e-16.
    assert gmsd(a, b) == pytest.approx(expected, abs=1e-13)
    assert min(expected) > 0.05


def test_gmsd_grows_with_damage_and_sees_no_offset() -> None:
    rng = np.random.default_rng(3)
    a = np.stack([draw_scene(sample_scene(rng)[0], 64) for _ in range(4)])
    a = (a.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    figures = [gmsd(a, a + pictures(4, a.shape, spread)).mean() for spread in (0.0, 0.05, 0.2, 0.8)]
    assert figures[0] == pytest.approx(0.0, abs=1e-15)
    assert figures == sorted(figures)
    assert figures[-1] > 2 * figures[1] > 0
    dark = (a * 0.5).astype(np.float32)
    # Measured 2e-15.
    assert gmsd(dark, dark + np.float32(0.3)) == pytest.approx(0.0, abs=1e-12)


def test_distances_refuse_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match=r"\[1, 3, 8, 8\] and \[2, 3, 8, 8\]"):
        # Without the array types that are checked in tests only.
        inspect.unwrap(psnr)(pictures(0, (1, 3, 8, 8)), pictures(0, (2, 3, 8, 8)))
    with pytest.raises(UsageError, match="expected images of at least 8x8 pixels, got 5x8"):
        gmsd(pictures(0, (1, 3, 5, 8)), pictures(0, (1, 3, 5, 8)))


def test_outside_and_clipped_count_values() -> None:
    values = np.linspace(-1.02, 1.02, 3 * 40 * 50, dtype=np.float32)
    x = values.reshape(1, 3, 40, 50)
    assert share_outside(x)[0] == sum(abs(float(v)) > 1 for v in values) / values.size
    # What the bytes would be if they could be any whole number.
    levels = np.array([math.floor(v * 127.5 + 128) for v in values.astype(np.float64)])
    bytes_ = to_uint8(x).transpose(0, 3, 1, 2).reshape(-1)
    assert share_clipped(x)[0] == (levels != bytes_).mean()
    assert 0 < share_clipped(x)[0] < share_outside(x)[0]


def staircase(length: int, patch: int, inside: float, border: float) -> np.ndarray:
    """A rising line with larger steps at the patch borders, around zero."""
    steps = [border if i % patch == 0 else inside for i in range(1, length)]
    line = np.cumsum([0.0, *steps])
    return line - line.mean()


def test_seam_ratio_of_a_known_picture() -> None:
    across = staircase(32, 8, 0.004, 0.006)
    down = staircase(24, 8, 0.004, 0.005)
    x = (across[None, :] + down[:, None])[None, None].repeat(3, 1).astype(np.float32)
    actual = seam_ratios(seam_gradients(x, 8))
    # 6/4, 5/4 and 11/8; measured 4e-7, float32.
    assert actual == pytest.approx((1.5, 1.25, 1.375), abs=1e-5)
    wrong = seam_ratios(seam_gradients(x, 4))
    assert wrong[0] is not None and wrong[0] < 1.3


def test_seam_gradients_are_those_of_pixel_pairs() -> None:
    x = pictures(5, (2, 3, 12, 8))
    sums = np.zeros((2, 2, 2, 2))
    for n, c, i, j in np.ndindex(*x.shape):
        here = np.clip(float(x[n, c, i, j]), -1, 1)
        for axis, (k, other) in enumerate(((j, (i, j + 1)), (i, (i + 1, j)))):
            # At most two pixels from a border at 4 or, in rows, 8.
            if 2 <= k + 1 <= x.shape[3 - axis] - 2:
                there = np.clip(float(x[n, c, other[0], other[1]]), -1, 1)
                sums[n, axis, int((k + 1) % 4 != 0)] += (abs(there - here), 1)
    # Measured 2e-16.
    assert seam_gradients(x, 4) == pytest.approx(sums[..., 0] / sums[..., 1], abs=1e-13)


def test_flat_pictures_have_no_seam_ratio() -> None:
    x = np.zeros((1, 3, 16, 16), dtype=np.float32)
    assert seam_ratios(seam_gradients(x, 8)) == (None, None, None)


def test_drawn_pictures_have_no_seams() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_scene(sample_scene(rng)[0], 64) for _ in range(600)])
    x = (drawn.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    # Measured 1.007, 0.967 and 0.987, with a standard error of 0.04 (0.03 for both together).
    assert seam_ratios(seam_gradients(x, 8)) == pytest.approx((1.0, 1.0, 1.0), abs=0.06)


@pytest.mark.parametrize("patch", [1, 8, 16])
def test_seams_need_borders(patch: int) -> None:
    with pytest.raises(UsageError, match=f"got {patch} in images of 8x16"):
        seam_gradients(np.zeros((1, 3, 8, 16), dtype=np.float32), patch)
