"""A new solver: one entry of the registry adds it everywhere."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float64

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.evaluation.quality.candidates import parse_table
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.solvers.methods import SOLVERS, Solver
from minit2i_deploy.solvers.row import advance
from minit2i_deploy.solvers.table import solver_table
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run


def midpoint(points: Float64[np.ndarray, " points"], a_min: float) -> Float64[np.ndarray, "rows 6"]:
    """x' = x + dt v at the middle of the step; the last step is Euler, as in Heun's method.

    The first row of a step goes to the middle, p = x + dt/2 v, and keeps h = y - x = m v. The
    second must give x + dt (y - p) / m', which is p + dt (y - p) / m' - dt/2 h / m.
    """
    rows = []
    for begin, end in itertools.pairwise(points):
        dt, m = end - begin, max(1.0 - begin, a_min)
        if end == points[-1]:
            rows.append([begin, 1.0 - dt / m, dt / m, 0.0, 0.0, 0.0])
            continue
        middle = begin + dt / 2
        b = dt / max(1.0 - middle, a_min)
        rows.append([begin, 1.0 - dt / 2 / m, dt / 2 / m, 0.0, 0.0, -1.0])
        rows.append([middle, 1.0 - b, b, -dt / 2 / m, 0.0, 0.0])
    return np.array(rows)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a program: ``SOLVERS["midpoint"] = Solver(rows=midpoint)``."""
    monkeypatch.setitem(SOLVERS, "midpoint", Solver(rows=midpoint))


def test_the_table_is_the_textbook_method() -> None:
    start = np.linspace(-2.0, 2.0, 12).reshape(1, 3, 2, 2)
    x, h = start, np.zeros_like(start)
    for row in solver_table("midpoint", steps=10).steps(dtype=np.float64):
        x, h = advance(x, h, np.tanh(x)[None], row.weights, row.values)

    def v(state: np.ndarray, t: float) -> np.ndarray:
        return (np.tanh(state) - state) / max(1.0 - t, 0.05)

    expected = start
    for t in np.linspace(0.0, 1.0, 11)[:-1]:
        middle = expected + 0.05 * v(expected, t)
        expected = expected + 0.1 * (v(middle, t + 0.05) if t < 0.89 else v(expected, t))
    assert np.abs(x - expected).max() < 1e-12


def test_it_generates_images_from_python(tmp_path: Path) -> None:
    bundle = Bundle.open(write_bundle(tmp_path / "bundle"))
    table = bundle.compile_table("midpoint", 4)
    assert (table.name, len(table), table.meta["a_min"]) == ("midpoint-4", 7, 0.05)
    assert parse_table(bundle, "midpoint:4") == table
    with FakeRuntime(bundle) as runtime:
        result = generate(bundle, runtime, "red", table=table, guidance=2.5)
    assert result.table == "midpoint-4" and np.isfinite(result.x).all()


def test_the_command_line_knows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    assert "midpoint" in run(capsys, "table", "--list").out
    done = run(
        capsys, "generate", bundle, "red", "--solver", "midpoint", "--steps", 4,
        "--runtime", "fake", "-o", tmp_path / "image.png", "--json",
    )  # fmt: skip
    assert (done.code, json.loads(done.out)["table"]) == (0, "midpoint-4")
