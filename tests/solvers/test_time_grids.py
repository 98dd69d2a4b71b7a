"""Time grids: what they are, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.time_grids import MAX_SHIFT, MAX_STEPS, time_grid


@pytest.mark.parametrize("steps", [1, 2, 20, 333, MAX_STEPS])
@pytest.mark.parametrize("shift", [None, 1 / MAX_SHIFT, 0.3, 1.0, 3.0, MAX_SHIFT])
def test_named_grids_rise_from_0_to_1(steps: int, shift: float | None) -> None:
    points = time_grid("uniform" if shift is None else "shifted", steps, shift)
    assert points.dtype == np.float64 and points.shape == (steps + 1,)
    assert points[0] == 0.0 and points[-1] == 1.0
    assert (np.diff(points) > 0).all()


def test_shift_by_hand_and_back() -> None:
    # Noise levels 1, 3/4, 1/2, 1/4, 0 under s u / (1 + (s - 1) u) with s = 3.
    expected = 1 - np.array([1, 9 / 10, 3 / 4, 1 / 2, 0])
    np.testing.assert_allclose(time_grid("shifted", 4, 3.0), expected, atol=1e-15)
    np.testing.assert_allclose(time_grid("shifted", 9, 1.0), time_grid("uniform", 9, None))


def test_a_list_stays_as_it_is() -> None:
    times = [0, 0.125, 0.9, 1]
    assert time_grid(times, None, None).tolist() == times
    assert time_grid(tuple(times), 3, None).tolist() == times


@pytest.mark.parametrize(
    ("grid", "steps", "shift", "text"),
    [
        ("cosine", 4, None, "grid 'cosine' is unknown; choose one of uniform, shifted, or give"),
        ("uniform", None, None, "10000, got None"),
        ("uniform", 0, None, "10000, got 0"),
        ("uniform", MAX_STEPS + 1, None, "must be an integer from 1 to 10000, got 10001"),
        ("uniform", 2.0, None, "10000, got 2.0"),
        ("uniform", 4, 2.0, "grid 'shifted' needs a shift and no other grid takes one"),
        ("shifted", 4, None, "grid 'shifted' needs a shift and no other grid takes one"),
        ("shifted", 4, 0.0, "got 0.0"),
        ("shifted", 4, 101.0, r"shift must be from 0.01 to 100.0, got 101.0"),
        ("shifted", 4, float("nan"), "got nan"),
        ([0.0, 1.0], None, 2.0, "no other grid takes one"),
        ([0.0, 0.5, 1.0], 3, None, "steps is 3, but the grid has 2 intervals"),
        ([0.0, 0.5, 1.0], True, None, "10000, got True"),
        ([0.0], None, None, "list of 2 to 10001 times"),
        ([], None, None, "list of 2 to 10001 times"),
        ([[0.0, 1.0]], None, None, r"got shape \[1, 2\]"),
        ([0.1, 1.0], None, None, "got 0.1 to 1.0"),
        ([0.0, 0.9], None, None, "must start at 0 and end at 1"),
        ([0.0, 0.6, 0.4, 1.0], None, None, "got 0.4 after 0.6 at position 2"),
        ([0.0, 0.5, 0.5, 1.0], None, None, "got 0.5 after 0.5 at position 2"),
        ([0.0, float("nan"), 1.0], None, None, "got nan after 0.0 at position 1"),
        ([0.0, "half", 1.0], None, None, "must be a list of times from 0 to 1"),
        ([0.0, [0.5], 1.0], None, None, "must be a list of times from 0 to 1"),
    ],
)
def test_wrong_grids_are_refused(grid: Any, steps: Any, shift: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        time_grid(grid, steps, shift)
    assert "\n" not in str(caught.value)
