"""Ticks of the curves are whole numbers as people write them."""

from __future__ import annotations

import pytest

from minit2i_deploy.evaluation.quality import plots


@pytest.mark.parametrize("places", [[40], [30, 45], [10, 80], [2, 1000]])
def test_ticks_are_plain_whole_numbers(places: list[int]) -> None:
    figure, (axes,) = plots._figure(1)
    axes.plot(places, [0.5] * len(places), label="x")
    plots._over_evaluations(axes, "score")
    figure.canvas.draw()
    low, high = axes.get_xlim()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    visible = [label.get_text() for place, label in ticks if low <= place <= high]
    assert len(visible) >= 2 and all(word.isdecimal() for word in visible)
    assert not axes.get_xticks(minor=True).size
