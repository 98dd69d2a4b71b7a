"""Which sample comes when: every sample once an epoch, shares kept, nothing replayed."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from minit2i_deploy.training.data.order import MIX_BLOCK, EpochOrder, Mix

SIZES = [7, 0, 12, 1, 30]


def epoch_of(order: EpochOrder, epoch: int) -> list[tuple[int, int]]:
    size = order.num_samples
    return [order.at(number) for number in range(epoch * size, (epoch + 1) * size)]


@pytest.mark.parametrize("window", [1, 4, 10_000])
def test_every_sample_comes_once_an_epoch(window: int) -> None:
    order = EpochOrder(3, 0, SIZES, window)
    expected = sorted((shard, n) for shard, size in enumerate(SIZES) for n in range(size))
    epochs = [epoch_of(order, epoch) for epoch in range(3)]
    assert all(sorted(actual) == expected for actual in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_window_of_one_shuffles_shards_alone() -> None:
    actual = epoch_of(EpochOrder(3, 0, SIZES, 1), 0)
    shards = list(dict.fromkeys(shard for shard, _ in actual))
    assert shards != sorted(shards)
    assert actual == [(shard, n) for shard in shards for n in range(SIZES[shard])]


def test_windows_mix_their_own_samples_only() -> None:
    window = 8
    mixed = epoch_of(EpochOrder(5, 0, SIZES, window), 2)
    plain = epoch_of(EpochOrder(5, 0, SIZES, 1), 2)
    parts = range(0, len(mixed), window)
    assert all(sorted(mixed[i : i + window]) == sorted(plain[i : i + window]) for i in parts)
    assert sum(mixed[i : i + window] != plain[i : i + window] for i in parts) >= 5


def test_the_order_is_a_function_of_the_number() -> None:
    order = EpochOrder(1, 0, SIZES, 6)
    forward = [order.at(n) for n in range(500)]
    assert [EpochOrder(1, 0, SIZES, 6).at(n) for n in reversed(range(500))] == forward[::-1]
    for other in (EpochOrder(2, 0, SIZES, 6), EpochOrder(1, 1, SIZES, 6)):
        assert [other.at(n) for n in range(500)] != forward


def test_neighbours_of_one_shard_are_parted() -> None:
    """A shuffled window leaves no more pairs of neighbours than chance does: one in a shuffle."""
    order = EpochOrder(0, 0, [1000], 10_000)
    places = [n for _, n in epoch_of(order, 0)]
    pairs = sum(abs(a - b) == 1 for a, b in itertools.pairwise(places))
    assert pairs <= 10  # 2 expected; measured 2


def test_a_mix_keeps_its_shares_exactly_in_every_block() -> None:
    weights = [0.06, 0.016, 0.04]
    mix = Mix(7, weights)
    exact = np.array(weights) / sum(weights) * MIX_BLOCK
    assert sum(mix.counts) == MIX_BLOCK
    assert np.abs(np.array(mix.counts) - exact).max() < 1
    for block in (0, 3):
        first = block * MIX_BLOCK
        dealt = [mix.at(slot) for slot in range(first, first + MIX_BLOCK)]
        assert Counter(source for source, _ in dealt) == dict(enumerate(mix.counts))


def test_each_source_is_counted_through_from_its_first_sample() -> None:
    mix, recorded = Mix(7, [3, 1]), [0, 0]
    for slot in range(MIX_BLOCK - 50, MIX_BLOCK + 50):
        source, number = mix.at(slot)
        if recorded[source]:
            assert number == recorded[source]
        recorded[source] = number + 1
    recorded = [0, 0]
    for slot in range(300):
        source, number = mix.at(slot)
        assert number == recorded[source]
        recorded[source] += 1
    assert recorded[0] / 300 == pytest.approx(0.75, abs=0.1)  # standard error 0.025


def test_a_tiny_weight_is_not_rounded_away() -> None:
    assert Mix(0, [1, 1e-12]).counts == (MIX_BLOCK - 1, 1)
    assert Mix(0, [5]).at(123) == (0, 123)
