"""The two relative errors against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from minit2i_deploy.evaluation.relative_error import l2_relative_errors, max_relative_error


def test_largest_difference_over_largest_value() -> None:
    expected = np.array([1.0, -4.0], np.float32)
    assert max_relative_error(expected + np.float32(0.5), expected) == 0.125
    assert np.isnan(max_relative_error(np.array([np.nan, 0.0], np.float32), expected))


def test_euclidean_distance_of_each_entry() -> None:
    expected = np.array([[[3.0, 0.0]], [[0.0, 5.0]]], np.float32)
    actual = expected + np.array([[[0.0, 4.0]], [[0.0, 0.0]]], np.float32)
    assert l2_relative_errors(actual, expected).tolist() == [pytest.approx(4 / 3), 0.0]


def test_zeros_are_no_division_by_zero() -> None:
    zeros = np.zeros((2, 3), np.float32)
    assert max_relative_error(zeros, zeros) == 0.0
    assert l2_relative_errors(zeros, zeros).tolist() == [0.0, 0.0]
    assert l2_relative_errors(zeros + np.float32(1), zeros).min() > 1e30
