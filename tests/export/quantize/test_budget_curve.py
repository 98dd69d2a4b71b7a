"""Error over bytes: which numbers of layers are measured, and that the file has them."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.sensitivity.budget import Budget, Selection, Trial
from minit2i_deploy.export.quantize.sensitivity.budget_curve import curve_counts, measure_curve
from minit2i_deploy.export.quantize.sensitivity.curve_plot import plot_curve
from minit2i_deploy.export.quantize.sensitivity.results_file import Sensitivity
from tests.export.quantize.test_sensitivity_budget import layer

SIZES = {"a": 100, "b": 100, "c": 400, "d": 200, "e": 200}
ORDER = [layer(name, 1.0, num_weights) for name, num_weights in SIZES.items()]


def value_of(exclude: Collection[str]) -> float:
    return 20.0 + 5.0 * len(exclude)


def bytes_of(exclude: Collection[str]) -> int:
    """A quarter of the bytes where a layer is quantized."""
    return sum(size * (4 if name in exclude else 1) for name, size in SIZES.items())


def test_steps_are_equal_in_weights_and_end_before_the_last_layer() -> None:
    # Sums of the first layers: 0, 100, 200, 600, 800.
    assert curve_counts(ORDER, 2) == [0, 4]
    assert curve_counts(ORDER, 5) == [0, 2, 3, 4]
    assert curve_counts(ORDER, 100) == [0, 1, 2, 3, 4]
    assert curve_counts(ORDER[:1], 9) == [0]
    with pytest.raises(UsageError, match="at least 2 points of a curve, got 1"):
        curve_counts(ORDER, 1)


def test_a_curve_has_bytes_and_value_of_each_number() -> None:
    shares: list[float] = []
    curve = measure_curve(
        ORDER, 3, "psnr", value_of, bytes_of, lambda share, label="": shares.append(share)
    )
    assert curve.to_dict() == {
        "kind": "psnr",
        "points": [
            {"num_excluded": 0, "bytes": 1000, "value": 20.0},
            {"num_excluded": 2, "bytes": 1600, "value": 30.0},
            {"num_excluded": 4, "bytes": 3400, "value": 40.0},
        ],
    }
    assert shares == sorted(shares) and len(shares) == 3


def test_equal_images_are_no_number_in_the_file_and_no_point_of_the_plot(tmp_path: Path) -> None:
    from PIL import Image

    curve = measure_curve(ORDER, 2, "psnr", lambda names: math.inf if names else 20.0, bytes_of)
    assert [point["value"] for point in curve.to_dict()["points"]] == [20.0, None]
    budget = Budget(kind="psnr", limit=31.0)
    trials = (Trial(num_excluded=0, value=20.0),)
    results = Sensitivity(
        run="0",
        about={"scheme": "int8"},
        times=(0.0,),
        layers=tuple(ORDER),
        splits=(),
        selection=Selection(budget=budget, excluded=(), value=20.0, trials=trials),
        curve=curve,
    )
    plot_curve(results, curve, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        assert min(image.size) > 300
    plot_curve(results, curve, tmp_path / "again.png")
    assert (tmp_path / "curve.png").read_bytes() == (tmp_path / "again.png").read_bytes()
