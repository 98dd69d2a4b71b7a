"""Runtimes that take all rows at once: the same pictures, and who is told of what."""

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
from tests.helpers.spies import SpyRuntime, SpyTrajectory


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("rows") / "bundle"))


class WholeTrajectory(SpyTrajectory):
    """Takes all rows at once, and says that it spent a second on something else."""

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


class WholeRuntime(SpyRuntime):
    """Starts such trajectories."""

    def start(self, x: np.ndarray, tokens: np.ndarray) -> WholeTrajectory:
        return WholeTrajectory(x.copy(), tokens)


@pytest.mark.parametrize("solver", ["euler", "sde", "dpmpp2m"])
def test_all_rows_at_once_are_the_rows_one_by_one(bundle: Bundle, solver: str) -> None:
    table = solver_table(solver, steps=4)
    found = [
        generate(bundle, runtime, ["red", "blue"], seed=[3, 9], table=table, guidance=2.0, **looks)
        for runtime in (WholeRuntime(bundle), SpyRuntime(bundle))
        for looks in ({}, {"on_frame": lambda frame: None})  # type: ignore[var-annotated]
    ]
    for result in found:
        assert np.array_equal(result.x, found[0].x)
    assert found[0].timings["capture"] == 1.0
    assert "capture" not in found[1].timings


def test_rows_that_are_done_are_told_with_and_without_frames(bundle: Bundle) -> None:
    table = solver_table("euler", steps=3)
    for runtime, looks, wanted in (
        (SpyRuntime(bundle), False, [(1, 3), (2, 3), (3, 3)]),
        (SpyRuntime(bundle), True, [(1, 3), (2, 3), (3, 3)]),
        (WholeRuntime(bundle), False, [(3, 3)]),
        (WholeRuntime(bundle), True, [(1, 3), (2, 3), (3, 3)]),
    ):
        told: list[tuple[int, int]] = []
        frames: list[Frame] = []
        generate(
            bundle,
            runtime,
            "red",
            table=table,
            on_frame=frames.append if looks else None,
            on_row=lambda done, total, told=told: told.append((done, total)),  # type: ignore[misc]
        )
        assert told == wanted
        assert [frame.index for frame in frames] == ([0, 1, 2] if looks else [])
