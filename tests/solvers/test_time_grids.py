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
    wanted = 1 - np.array([1, 9 / 10, 3 / 4, 1 / 2, 0])
    np.testing.assert_allclose(time_grid("shifted", 4, 3.0), wanted, atol=1e-15)
    np.testing.assert_allclose(time_grid("shifted", 9, 1.0), time_grid("uniform", 9, None))


def test_a_list_stays_as_it_is() -> None:
    times = [0, 0.125, 0.9, 1]
    assert time_grid(times, None, None).tolist() == times
    assert time_grid(tuple(times), 3, None).tolist() == times


@pytest.mark.parametrize(
    ("grid", "steps", "shift", "text"),
    [
        ("cosine", 4, None, "grid 'cosine' is unknown; choose one of uniform, shifted, or give"),
        ("uniform", None, None, "steps is None"),
        ("uniform", 0, None, "steps is 0"),
        ("uniform", MAX_STEPS + 1, None, "steps is 10001, but a whole number from 1 to 10000"),
        ("uniform", 2.0, None, "steps is 2.0"),
        ("uniform", 4, 2.0, "grid 'shifted' takes a shift and no other does"),
        ("shifted", 4, None, "grid 'shifted' takes a shift and no other does"),
        ("shifted", 4, 0.0, "shift is 0.0"),
        ("shifted", 4, 101.0, r"shift is 101.0, but a number from 0.01 to 100.0"),
        ("shifted", 4, float("nan"), "shift is nan"),
        ([0.0, 1.0], None, 2.0, "no other does"),
        ([0.0, 0.5, 1.0], 3, None, "steps is 3, but the grid has 2 intervals"),
        ([0.0, 0.5, 1.0], True, None, "steps is True"),
        ([0.0], None, None, "list of 2 to 10001 times"),
        ([], None, None, "list of 2 to 10001 times"),
        ([[0.0, 1.0]], None, None, r"shape \[1, 2\]"),
        ([0.1, 1.0], None, None, "goes from 0.1 to 1.0"),
        ([0.0, 0.9], None, None, "must start at 0 and end at 1"),
        ([0.0, 0.6, 0.4, 1.0], None, None, "grid point 2 is 0.4 after 0.6"),
        ([0.0, 0.5, 0.5, 1.0], None, None, "grid point 2 is 0.5 after 0.5"),
        ([0.0, float("nan"), 1.0], None, None, "grid point 1 is nan"),
        ([0.0, "half", 1.0], None, None, "no list of numbers"),
        ([0.0, [0.5], 1.0], None, None, "no list of numbers"),
    ],
)
def test_wrong_grids_are_refused(grid: Any, steps: Any, shift: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        time_grid(grid, steps, shift)
    assert "\n" not in str(caught.value)
