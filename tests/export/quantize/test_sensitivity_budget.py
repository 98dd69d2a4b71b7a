"""Budgets: what they mean, the order of exclusion, and the search against trying everything."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError, VerificationError
from minit2i_deploy.export.quantize.sensitivity.budget import (
    Budget,
    count_allowed,
    rank_layers,
    score_loss_of,
    select_layers,
)
from minit2i_deploy.export.quantize.sensitivity.layer_errors import LayerError

PSNR = Budget(kind="psnr", limit=30.0)


def layer(name: str, error: float, num_weights: int = 100) -> LayerError:
    """A layer with one figure."""
    return LayerError(
        name=name, num_weights=num_weights, estimate=(0.5,), final=(error,), whole=error
    )


LAYERS = [
    layer(name, error) for name, error in zip("abcdefgh", (3, 9, 1, 7, 2, 8, 5, 4), strict=True)
]


def psnr_without(exclude: Collection[str]) -> float:
    """Decibels where errors add up as squares."""
    total = sum(one.error**2 for one in LAYERS if one.name not in exclude)
    return float("inf") if not total else 40.0 - 10.0 * float(np.log10(total))


@pytest.mark.parametrize(
    ("text", "kind", "limit"), [("psnr=35", "psnr", 35.0), ("score=0.01", "score", 0.01)]
)
def test_a_budget_is_read(text: str, kind: str, limit: float) -> None:
    assert Budget.parse(text) == Budget(kind=kind, limit=limit)


@pytest.mark.parametrize(
    "text", ["psnr", "psnr=", "psnr=x", "psnr=nan", "score=1", "score=-0.1", "size=3", "=3", ""]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected psnr=DECIBELS or score=SHARE"):
        Budget.parse(text)


def test_decibels_rise_and_losses_fall() -> None:
    assert PSNR.meets(30.0)
    assert not PSNR.meets(29.9)
    assert PSNR.better(31.0, 30.0)
    score = Budget(kind="score", limit=0.01)
    assert score.meets(0.01)
    assert score.meets(-0.02)
    assert not score.meets(0.011)
    assert score.better(0.0, 0.1)


def test_layers_are_ranked_by_squared_error_a_weight() -> None:
    large, small = layer("large", 4.0, 1000), layer("small", 2.0, 100)
    # 16/1000 is less than 4/100.
    assert [one.name for one in rank_layers([large, small])] == ["small", "large"]
    equal = [layer("x", 1.0), layer("y", 1.0)]
    assert [one.name for one in rank_layers(equal)] == ["x", "y"]
    assert "".join(one.name for one in rank_layers(LAYERS)) == "bfdghaec"


@pytest.mark.parametrize("limit", [14.0, 18.0, 22.0, 25.0, 30.0, 39.0])
def test_the_search_finds_the_least_number(limit: float) -> None:
    budget, order = Budget(kind="psnr", limit=limit), rank_layers(LAYERS)
    names = [one.name for one in order]
    # By trying everything.
    least = min(n for n in range(9) if psnr_without(names[:n]) >= limit)
    selection = select_layers(order, budget, 1.0, psnr_without)
    assert selection.excluded == tuple(names[:least])
    assert selection.value == psnr_without(names[:least])
    # All of them, the most allowed, and a bisection of what lies between.
    assert len(selection.trials) <= 2 + 3
    assert [one.num_excluded for one in selection.trials] == sorted(
        {one.num_excluded for one in selection.trials}
    )
    assert selection.to_dict()["reached"] == selection.value


def test_nothing_is_excluded_where_nothing_need_be() -> None:
    calls: list[int] = []

    def value(exclude: Collection[str]) -> float:
        calls.append(len(exclude))
        return 50.0

    selection = select_layers(rank_layers(LAYERS), PSNR, 0.5, value)
    assert (selection.excluded, calls) == ((), [0])


def test_an_unmet_budget_tells_the_best_that_was_reached() -> None:
    order = rank_layers(LAYERS)
    best = psnr_without({"b", "f", "d", "g"})
    text = (
        f"budget psnr=30 is not met with at most 50% of the weights excluded; best reached"
        f" {best:.4g} dB with 4 of 8 layers excluded"
    )
    with pytest.raises(VerificationError, match=re.escape(text)):
        select_layers(order, PSNR, 0.5, psnr_without)


def test_the_best_may_be_to_exclude_nothing() -> None:
    with pytest.raises(VerificationError, match=r"best reached 0\.3 with 0 of 8 layers"):
        select_layers(
            rank_layers(LAYERS),
            Budget(kind="score", limit=0.01),
            0.5,
            lambda exclude: 0.3 + 0.1 * len(exclude),
        )


def test_the_share_counts_weights() -> None:
    order = [layer("a", 9.0, 30), layer("b", 8.0, 50), layer("c", 7.0, 20)]
    assert [count_allowed(order, most) for most in (0.0, 0.29, 0.3, 0.79, 0.8, 1.0)] == [
        0, 0, 1, 1, 2, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("most", [-0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(most: float) -> None:
    with pytest.raises(UsageError, match="expected a largest excluded share"):
        count_allowed(LAYERS, most)


def test_a_score_needs_captions() -> None:
    with pytest.raises(UsageError, match="at least 1 caption per kind, got 0"):
        score_loss_of(None, 0)  # type: ignore[arg-type]
