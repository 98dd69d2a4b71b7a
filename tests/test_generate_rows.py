"""Runtimes that run all rows at once: the same images, and which callbacks are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.generate import Frame, generate
from minit2i_deploy.protocol import FreshNoise
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import write_bundle
from tests.helpers.fakes.spies import SpyRuntime, SpyTrajectory


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("rows") / "bundle"))


class AtOnceTrajectory(SpyTrajectory):
    """Runs all rows at once, and reports a second spent on something else."""

    def run_rows(
        self,
        rows: Sequence[Row],
        fresh_noise: FreshNoise,
        on_row: Callable[[int], None] | None = None,
    ) -> Mapping[str, float]:
        for row in rows:
            self.step(row, fresh_noise(row))
        if on_row is not None:
            on_row(len(rows))
        return {"capture": 1.0}


class AtOnceRuntime(SpyRuntime):
    """Starts such trajectories."""

    def start(self, x: np.ndarray, tokens: np.ndarray) -> AtOnceTrajectory:
        return AtOnceTrajectory(x.copy(), tokens)


@pytest.mark.parametrize("solver", ["euler", "sde", "dpmpp2m"])
def test_all_rows_at_once_are_the_rows_one_by_one(bundle: Bundle, solver: str) -> None:
    table = solver_table(solver, steps=4)
    results = [
        generate(bundle, runtime, ["red", "blue"], seed=[3, 9], table=table, guidance=2.0, **looks)
        for runtime in (AtOnceRuntime(bundle), SpyRuntime(bundle))
        for looks in ({}, {"on_frame": lambda frame: None})  # type: ignore[var-annotated]
    ]
    for result in results:
        assert np.array_equal(result.x, results[0].x)
    assert results[0].timings["capture"] == 1.0
    assert "capture" not in results[1].timings


def test_finished_rows_are_reported_with_and_without_frames(bundle: Bundle) -> None:
    table = solver_table("euler", steps=3)
    for runtime, looks, expected in (
        (SpyRuntime(bundle), False, [(1, 3), (2, 3), (3, 3)]),
        (SpyRuntime(bundle), True, [(1, 3), (2, 3), (3, 3)]),
        (AtOnceRuntime(bundle), False, [(3, 3)]),
        (AtOnceRuntime(bundle), True, [(1, 3), (2, 3), (3, 3)]),
    ):
        calls: list[tuple[int, int]] = []
        frames: list[Frame] = []
        generate(
            bundle,
            runtime,
            "red",
            table=table,
            on_frame=frames.append if looks else None,
            on_row=lambda done, total, calls=calls: calls.append((done, total)),  # type: ignore[misc]
        )
        assert calls == expected
        assert [frame.index for frame in frames] == ([0, 1, 2] if looks else [])
