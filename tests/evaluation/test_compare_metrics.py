"""SSIM, the paired interval, the amplified difference and the chart, each by another road."""

from __future__ import annotations

import inspect
import io
import math

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.compare.confidence_interval import difference_interval
from minit2i_deploy.evaluation.compare.difference_images import amplified_difference, png_bytes
from minit2i_deploy.evaluation.compare.ssim import ssim
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts


def pictures(seed: int, size: int = 16) -> np.ndarray:
    """Noise that leaves [-1, 1] here and there: float32 [2, 3, size, size]."""
    rng = np.random.default_rng(seed)
    return (0.7 * rng.standard_normal((2, 3, size, size))).astype(np.float32)


def textbook_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Window by window with weighted moments about the means, as the paper writes them."""
    grid = np.arange(11) - 5.0
    window = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    luma = [
        (0.299 * r + 0.587 * g + 0.114 * blue + 1.0) * 127.5
        for r, g, blue in (np.clip(x.astype(np.float64), -1, 1) for x in (a, b))
    ]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for i in range(luma[0].shape[0] - 10):
        for j in range(luma[0].shape[1] - 10):
            p, q = (x[i : i + 11, j : j + 11] for x in luma)
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            values.append(
                (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            )
    return float(np.mean(values))


def test_ssim_is_the_papers() -> None:
    a, b = pictures(0), pictures(1)
    actual = ssim(a, 0.5 * a + 0.5 * b)
    expected = [textbook_ssim(one, two) for one, two in zip(a, 0.5 * a + 0.5 * b, strict=True)]
    # Measured 2e-13: variances as differences of moments.
    np.testing.assert_allclose(actual, expected, atol=1e-10)
    assert ssim(a, a) == pytest.approx([1.0, 1.0], abs=1e-12)


def test_ssim_falls_with_the_distance() -> None:
    a, b = pictures(2), pictures(3)
    near, far = (ssim(a, (1 - share) * a + share * b) for share in (0.1, 0.6))
    assert (near > far).all()


def test_ssim_refuses_what_does_not_fit() -> None:
    small = np.zeros((1, 3, 16, 10), np.float32)
    with pytest.raises(UsageError, match="two equal shapes of at least 11x11"):
        ssim(small, small)
    with pytest.raises(UsageError, match=r"\[1, 3, 16, 10\] and \[1, 3, 16, 16\]"):
        # Without the array types that are checked in tests only.
        inspect.unwrap(ssim)(small, np.zeros((1, 3, 16, 16), np.float32))


def test_the_interval_is_walds_with_half_a_caption_in_every_cell() -> None:
    won, lost, total = 7, 3, 40
    # Wald's from the covariance of the two verdicts themselves, cells one by one.
    both = (total - won - lost) / 2
    cells = np.array([both, won, lost, both]) + 0.5
    first, second = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    share = cells / cells.sum()
    mean = (share * (first - second)).sum()
    variance = (share * (first - second - mean) ** 2).sum() / cells.sum()
    expected = (mean - 1.959964 * math.sqrt(variance), mean + 1.959964 * math.sqrt(variance))
    assert difference_interval(PairedVerdicts(won=won, lost=lost), total) == pytest.approx(
        expected, rel=1e-6
    )


def test_the_interval_covers_what_it_should() -> None:
    rng = np.random.default_rng(0)
    won, lost, total = 0.08, 0.05, 120
    hits, trials = 0, 2000
    for gained, missed, _ in rng.multinomial(total, [won, lost, 1 - won - lost], trials):
        low, high = difference_interval(PairedVerdicts(won=int(gained), lost=int(missed)), total)
        hits += low <= won - lost <= high
    # 0.9555 measured; 0.95 promised, and 2000 trials have a deviation of 0.005.
    assert 0.94 <= hits / trials <= 0.97


def test_the_interval_stays_a_difference_of_shares() -> None:
    assert difference_interval(PairedVerdicts(won=1, lost=0), 1)[1] == 1.0
    low, high = difference_interval(PairedVerdicts(won=0, lost=0), 100)
    assert low == -high < 0


@pytest.mark.parametrize(("won", "lost", "total"), [(0, 0, 0), (3, 3, 5)])
def test_the_interval_refuses_counts_that_do_not_fit(won: int, lost: int, total: int) -> None:
    with pytest.raises(UsageError, match="at least one caption and no more differences"):
        difference_interval(PairedVerdicts(won=won, lost=lost), total)


def test_the_difference_is_amplified_around_grey() -> None:
    a = np.zeros((3, 2, 2), np.float32)
    b = a.copy()
    b[0, 0, 0], b[1, 1, 1], b[2, 0, 1] = 0.05, -0.02, 5.0
    actual = amplified_difference(a, b, 10.0)
    assert actual[0, 0, 0] == pytest.approx(0.5)
    assert actual[1, 1, 1] == pytest.approx(-0.2)
    assert actual[2, 0, 1] == 1.0
    assert np.count_nonzero(actual) == 3
    # What lies outside [-1, 1] is not seen in a picture, so it is no difference either.
    assert not amplified_difference(a + 1.0, a + 3.0).any()
    with pytest.raises(UsageError, match="gain: expected a positive number, got 0"):
        amplified_difference(a, b, 0.0)


def test_png_bytes_hold_the_pictures_bytes() -> None:
    from PIL import Image

    x = np.zeros((3, 4, 5), np.float32)
    x[0], x[1, 0, 0] = 1.0, -1.0
    with Image.open(io.BytesIO(png_bytes(x))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (4, 5, 3)
    assert pixels[0, 0].tolist() == [255, 0, 128]
    assert pixels[1, 1].tolist() == [255, 128, 128]
