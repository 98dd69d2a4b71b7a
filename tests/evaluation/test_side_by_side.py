"""Several bundles against one reference: figures of pairs, the worst cases, names and charts."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import RuntimeFailure, UsageError
from minit2i_deploy.evaluation.bench.timing import SubjectTimings, Timing, ratio_quartiles
from minit2i_deploy.evaluation.compare import CompareSettings, Contender, PromptCase, compare
from minit2i_deploy.evaluation.side_by_side import SideBySide, Speed, measure_side_by_side
from minit2i_deploy.evaluation.side_by_side.page import to_html
from minit2i_deploy.evaluation.side_by_side.plots import (
    Point,
    Scale,
    bin_counts,
    bin_edges,
    histogram,
    scatter,
)
from minit2i_deploy.evaluation.side_by_side.settings import split_settings, unique_names
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.table import solver_table
from tests.evaluation.test_compare import Broken, Louder, side
from tests.helpers.bundles import write_bundle

CASES = tuple(
    PromptCase(prompt=prompt, seed=seed)
    for seed, prompt in enumerate(("red", "a blue", "", "blue", "a red"))
)


class MuchLouder(Louder):
    """Tokens that are 4% larger."""

    name = "much-louder"
    factor = 1.04


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A complete small bundle."""
    return Bundle.open(write_bundle(tmp_path / "b"))


def settings(**changes: int) -> CompareSettings:
    return CompareSettings(table=solver_table("ab2", steps=3), guidance=2.5, **changes)


def measured(bundle: Bundle, **changes: int) -> SideBySide:
    """The fake, and two that are louder."""
    sides = [side(bundle, kind) for kind in (FakeRuntime, Louder, MuchLouder)]
    return measure_side_by_side(sides, CASES, settings(**changes))


def test_figures_are_those_of_pairs_compared_alone(bundle: Bundle) -> None:
    result = measured(bundle, batch=2)
    assert [one.name for one in result.bundles] == ["b@fake", "b@louder", "b@much-louder"]
    for candidate, kind in zip(result.candidates, (Louder, MuchLouder), strict=True):
        alone = compare(side(bundle), side(bundle, kind), CASES, settings())
        expected = [pair.psnr_db for pair in alone.pairs]
        # Measured 0: the images do not depend on the batch.
        assert [one.psnr_db for one in candidate.pairs] == pytest.approx(expected, rel=1e-9)
        assert candidate.psnr_db == pytest.approx(np.mean(expected))
    assert result.candidates[0].psnr_db > result.candidates[1].psnr_db


def test_the_worst_cases_are_shown_first(bundle: Bundle) -> None:
    result = measured(bundle, batch=2, details=3)
    lowest = [min(one.pairs[i].psnr_db for one in result.candidates) for i in range(len(CASES))]
    order = sorted(range(len(CASES)), key=lambda index: lowest[index])
    assert [case.index for case in result.shown] == order[:3]
    assert all(case.x.shape == (3, 3, 32, 32) for case in result.shown)


def test_a_bundle_beside_itself_is_equal_and_has_a_page(bundle: Bundle) -> None:
    result = measure_side_by_side([side(bundle)] * 3, CASES, settings())
    assert [one.name for one in result.bundles] == [f"b@fake ({n})" for n in (1, 2, 3)]
    assert [one.psnr_db for one in result.candidates] == [None, None]
    values = result.to_dict()
    assert values["bundles"][1]["final"]["psnr_db"] == {"mean": None, "lowest": None}
    page = to_html(result)
    assert "5 equal, in the last column" in page and "Settings" in page


def test_what_cannot_be_measured_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="at least two bundles and one prompt, got 1 and 5"):
        measure_side_by_side([side(bundle)], CASES, settings())
    with pytest.raises(UsageError, match="got 2 and 0"):
        measure_side_by_side([side(bundle)] * 2, [], settings())
    with pytest.raises(RuntimeFailure, match="an image holds NaN"):
        measure_side_by_side([side(bundle), side(bundle, Broken)], CASES, settings())


def timings(*seconds: float) -> SubjectTimings:
    """Of a step, one for each turn."""
    return SubjectTimings(
        label="",
        timings={"step": Timing(seconds=seconds)},
        images_per_s=1.0,
        texts_per_s=1.0,
        step_flops=1,
        matrix_rate=1.0,
        difference=0.0,
        difference_db=math.inf,
    )


def test_speed_is_the_median_of_pairs_with_its_quartiles() -> None:
    first, other = timings(2.0, 2.0, 9.0, 2.0, 2.0), timings(1.0, 2.0, 3.0, 4.0, 0.5)
    # Ratios by turn: 2, 1, 3, 0.5, 4.
    assert ratio_quartiles(first, other, "step") == (1.0, 2.0, 3.0)
    speed = Speed.of(first, other)
    assert speed.to_dict() == {"step_p50_s": 2.0, "ratio": 2.0, "quartiles": [1.0, 3.0]}


def test_settings_that_differ_are_told_from_those_that_do_not() -> None:
    same, different = split_settings([{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}])
    assert same == {"a": "1"}
    assert different == {"b": ("2", "3"), "c": ("-", "4")}


def test_names_tell_bundles_apart(tmp_path: Path) -> None:
    bundles = [Bundle.open(write_bundle(tmp_path / name)) for name in ("x/b", "y/b", "c")]
    ready = dataclasses.replace(bundles[2], path=tmp_path / f"demo-{'0' * 16}")
    sides = [side(one) for one in (*bundles, ready)]
    assert unique_names(sides[1:]) == ["b", "c", "demo"]
    assert unique_names(sides[:2]) == [f"{tmp_path}/{name}/b@fake" for name in "xy"]
    both = [Contender(bundle=bundles[0], runtime=sides[0].runtime, engine=name) for name in "vw"]
    assert unique_names(both) == ["b@v", "b@w"]


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((4.6, 20.7), (0.31, 1.07), (26.0, 26.4), (-3.0, 1200.0)):
        scale = Scale.over([low, high], 0.0, 100.0)
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 7
        assert all(scale.low <= tick <= scale.high for tick in ticks)
        assert {len(f"{tick:g}".lstrip("-").replace(".", "").strip("0")) for tick in ticks} <= {
            0, 1, 2, 3,
        }  # fmt: skip
        assert 0.0 <= scale.pixel(low) < scale.pixel(high) <= 100.0
    assert Scale.over([5.0], 0.0, 1.0).ticks()


def test_bins_cover_everything_and_count_each_value_once() -> None:
    values = [17.6, 42.0, 42.3, 48.1, math.inf]
    bins = bin_edges(values, 8)
    assert bins[0] <= 17.6 and bins[-1] > 48.1
    expected, _ = np.histogram(np.minimum(values, 48.1), bins)
    assert bin_counts(values, bins) == expected.tolist()
    assert bin_counts([math.inf], bin_edges([math.inf]))[-1] == 1


def test_names_of_points_do_not_cover_one_another() -> None:
    points = [Point(name=f"point {n}", x=1.0, y=40.0 + 0.01 * n) for n in range(6)]
    drawn = scatter([*points, Point(name="far", x=9.0, y=10.0)], x_label="x", y_label="y")
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)"[^>]*>point', drawn))
    assert len(heights) == 6
    # A line is 13 pixels; the file has one digit after the point.
    assert min(np.diff(heights)) > 12.9


def test_a_histogram_draws_its_counts() -> None:
    drawn = histogram([1.0, 1.1, 3.5], [0.0, 2.0, 4.0], label="x", top=2)
    tall, low = (float(h) for h in re.findall(r'height="([\d.]+)" class="s1"', drawn))
    assert tall == pytest.approx(2 * low, abs=0.11)
