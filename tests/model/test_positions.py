"""Position tables against rotations of the complex plane, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minit2i_deploy.model.heads import Heads
from minit2i_deploy.model.positions import image_position_table, image_rotary, text_rotary

# Angles reach 255 and the tables are rounded to float32 once; measured 3.0e-7.
MAX_ABS_ERROR = 2e-6


def turned(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Pairs (i, i + K/2) of x [tokens, K] as complex numbers, turned by angles [tokens, K/2]."""
    real, imaginary = np.split(x.astype(np.float64), 2, axis=1)
    pairs = (real + 1j * imaginary) * np.exp(1j * angles)
    return np.concatenate([pairs.real, pairs.imag], axis=1)


def rotated(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    heads = Heads(head_dim=x.shape[-1])
    return heads.rotate(torch.from_numpy(x)[None, None], torch.from_numpy(table))[0, 0].numpy()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("head_dim", [16, 52, 64])
def test_text_pairs_turn_by_their_position(head_dim: int) -> None:
    x = normal(256, head_dim)
    speed = [10000.0 ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    angles = np.array([[position * s for s in speed] for position in range(256)])
    table = text_rotary(256, head_dim)
    assert table.shape == (2, 256, head_dim) and table.dtype == np.float32
    assert np.abs(rotated(x, table) - turned(x, angles)).max() <= MAX_ABS_ERROR


def test_a_prefix_stays_and_the_rest_keeps_its_position() -> None:
    with_prefix, plain = text_rotary(24, 16, num_unrotated=20), text_rotary(24, 16)
    assert np.array_equal(with_prefix[:, 20:], plain[:, 20:])
    assert (with_prefix[0, :20] == 1).all() and (with_prefix[1, :20] == 0).all()


@pytest.mark.parametrize("head_dim", [16, 52, 64])
def test_image_pairs_turn_half_by_row_and_half_by_column(head_dim: int) -> None:
    side = 6
    x = normal(side * side, head_dim)
    speed = [10000.0 ** (-4 * i / head_dim) for i in range(head_dim // 4)]
    angles = np.array(
        [
            [axis * s for axis in (row, column) for s in speed]
            for row in range(side)
            for column in range(side)
        ]
    )
    assert np.abs(rotated(x, image_rotary((side, side), head_dim)) - turned(x, angles)).max() <= (
        MAX_ABS_ERROR
    )


def test_scores_depend_on_distance_alone() -> None:
    table = text_rotary(40, 16)
    q, k = (np.repeat(normal(1, 16) * scale, 40, axis=0) for scale in (1.0, -0.5))
    scores = rotated(q, table) @ rotated(k, table).T
    for distance in (0, 3, 17):
        diagonal = np.diagonal(scores, distance)
        assert np.ptp(diagonal) <= 1e-5  # measured 1.9e-6
    assert np.ptp(scores[0]) > 0.1


@pytest.mark.parametrize(("side", "width"), [(4, 64), (32, 1248)])
def test_the_fixed_table_is_sines_and_cosines_of_column_and_row(side: int, width: int) -> None:
    quarter = width // 4
    speed = 10000.0 ** (-np.arange(quarter) / quarter)
    expected = np.empty((side * side, width))
    for row in range(side):
        for column in range(side):
            phases = [np.exp(1j * axis * speed) for axis in (column, row)]
            parts = [part for phase in phases for part in (phase.imag, phase.real)]
            expected[row * side + column] = np.concatenate(parts)
    actual = image_position_table((side, side), width)
    assert actual.dtype == np.float32
    assert np.abs(actual - expected).max() <= 1e-7  # measured 3.0e-8, the rounding
