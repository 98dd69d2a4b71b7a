"""Mixes: what is a mix, its shares, and what a batch of them must have in common."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.text.prompts import Mix, as_mix, common_shares


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([1], [1]),
        ([5], [1]),
        ([1, 1], [0.5, 0.5]),
        ([3, 0, 1], [0.75, 0, 0.25]),
        ([2, -1], [2, -1]),
    ],
)
def test_shares_are_the_weights_over_their_sum(weights: list[float], shares: list[float]) -> None:
    mix = Mix(parts=tuple((f"text {k}", weight) for k, weight in enumerate(weights)))
    assert mix.shares().tolist() == shares
    assert mix.shares().dtype == np.float64
    assert mix.texts == tuple(f"text {k}" for k in range(len(weights)))


def test_lists_are_accepted_and_the_mix_stays_hashable() -> None:
    pairs: Any = [["red", 1], ["green", 2]]
    mix = Mix(parts=pairs)
    assert mix.parts == (("red", 1.0), ("green", 2.0))
    assert hash(mix) == hash(Mix(parts=(("red", 1.0), ("green", 2.0))))


def test_a_text_is_a_mix_of_one() -> None:
    assert as_mix("red") == Mix(parts=(("red", 1.0),))
    assert as_mix(as_mix("red")) == as_mix("red")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "at least one text, got none"),
        ((("red", 1.0), ("green", -1.0)), "whose sum is not 0, got"),
        ((("red", 0.0),), "whose sum is not 0, got"),
        ((("red", math.nan),), "finite"),
        ((("red", math.inf), ("green", 1.0)), "finite"),
        # Finite in float64 and infinite in the graph's float32.
        ((("red", 1e30), ("green", -1e30), ("blue", 1e-30)), "finite"),
        ((("red", "much"),), "pairs of a text and a number"),
        (("red",), "pairs of a text and a number"),
    ],
)
def test_bad_mixes_are_refused(parts: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Mix(parts=parts)


def test_prompts_of_a_batch_have_the_same_shares() -> None:
    half = Mix(parts=(("red", 1.0), ("green", 1.0)))
    also_half = Mix(parts=(("a", 3.0), ("b", 3.0)))
    assert common_shares([half, also_half]).tolist() == [0.5, 0.5]
    assert common_shares(["red", "green", as_mix("blue")]).tolist() == [1.0]
    with pytest.raises(UsageError, match="prompt 1 has weights"):
        common_shares([half, "red"])
