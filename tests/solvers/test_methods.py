"""Each solver's rows against its textbook form, which keeps its own history and its own time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.methods import SOLVERS
from minit2i_deploy.solvers.row import advance
from minit2i_deploy.solvers.table import Table, solver_table

Array = np.ndarray[Any, np.dtype[Any]]
Estimate = Callable[[Array], Array]
SHAPE = (2, 3, 4, 5)
# Rounding of two orders of the same float64 sums; measured at most 1.5e-14 (heun, 200 steps).
TOLERANCE = 1e-12


def linear(x: Array) -> Array:
    return 0.6 * x - 0.3 * np.roll(x, 1, axis=-1) + 0.2


def nonlinear(x: Array) -> Array:
    return np.tanh(0.7 * x + 0.1) - 0.3 * np.roll(x, 1, axis=-1)


def noises(steps: int) -> Array:
    return np.random.default_rng(8).standard_normal((steps, *SHAPE))


def run(table: Table, estimate: Estimate) -> Array:
    x = 2.0 * np.random.default_rng(3).standard_normal(SHAPE)
    h, fresh = np.zeros_like(x), noises(len(table))
    for row in table.steps(dtype=np.float64):
        slot = fresh[row.index] if row.draws_noise else h
        x, h = advance(x, slot, estimate(x)[None], row.weights, row.values)
    return x


def textbook_euler(x: Array, grid: Array, a_min: float, estimate: Estimate) -> Array:
    for t, dt in zip(grid[:-1], np.diff(grid), strict=True):
        x = x + dt * (estimate(x) - x) / max(1.0 - t, a_min)
    return x


def textbook_heun(x: Array, grid: Array, a_min: float, estimate: Estimate) -> Array:
    def velocity(state: Array, t: float) -> Array:
        return (estimate(state) - state) / max(1.0 - t, a_min)

    for t, dt in zip(grid[:-2], np.diff(grid[:-1]), strict=True):
        v = velocity(x, t)
        x = x + 0.5 * dt * (v + velocity(x + dt * v, t + dt))
    return x + (1.0 - grid[-2]) * velocity(x, grid[-2])


def textbook_sde(x: Array, grid: Array, a_min: float, estimate: Estimate) -> Array:
    """In the official code's own time, tau = 1 - t, with alpha, sigma and the score spelt out."""
    fresh = noises(len(grid) - 1)
    for i, (now, then) in enumerate(zip(1.0 - grid[:-1], 1.0 - grid[1:], strict=True)):
        alpha, slope_of_alpha, sigma, slope_of_sigma = 1.0 - now, -1.0, now, 1.0
        v = -(estimate(x) - x) / max(now, a_min)
        ratio = alpha / slope_of_alpha
        score = (ratio * v - x) / (sigma**2 - ratio * slope_of_sigma * sigma)
        diffusion = 2.0 * now
        x = x + (v - 0.5 * diffusion * score) * (then - now)
        if i < len(grid) - 2:
            x = x + np.sqrt(diffusion) * np.sqrt(now - then) * fresh[i]
    return x


def textbook_ab2(x: Array, grid: Array, a_min: float, estimate: Estimate) -> Array:
    """The integral of the line through the last two velocities; first and last step Euler."""
    velocities: list[Array] = []
    dt = np.diff(grid)
    for i, t in enumerate(grid[:-1]):
        velocities.append((estimate(x) - x) / max(1.0 - t, a_min))
        x = x + dt[i] * velocities[-1]
        if 0 < i < len(dt) - 1:
            x = x + 0.5 * dt[i] ** 2 * (velocities[-1] - velocities[-2]) / dt[i - 1]
    return x


def textbook_dpmpp2m(x: Array, grid: Array, a_min: float, estimate: Estimate) -> Array:
    """Algorithm 2 of 2211.01095 with its alpha, sigma, lambda, h and r, infinities included."""
    alpha, sigma = grid, 2.0 * (1.0 - grid)
    with np.errstate(divide="ignore"):
        h = np.diff(np.log(alpha / sigma))
    estimates: list[Array] = []
    for i in range(len(h)):
        estimates.append(estimate(x))
        mixed = estimates[-1]
        if 0 < i < len(h) - 1:
            r = h[i - 1] / h[i]
            mixed = (1.0 + 0.5 / r) * estimates[-1] - 0.5 / r * estimates[-2]
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * (np.exp(-h[i]) - 1.0) * mixed
    return x


TEXTBOOK = {
    "euler": textbook_euler,
    "heun": textbook_heun,
    "sde": textbook_sde,
    "ab2": textbook_ab2,
    "dpmpp2m": textbook_dpmpp2m,
}
GRIDS: list[dict[str, Any]] = [
    {"steps": 1},
    {"steps": 2},
    {"steps": 3},
    {"steps": 28},
    {"steps": 200},
    {"steps": 20, "grid": "shifted", "shift": 3.0},
    {"steps": 20, "grid": "shifted", "shift": 0.4},
    {"grid": [0.0, 0.02, 0.3, 0.35, 0.8, 0.81, 0.97, 1.0]},
]


def times(arguments: dict[str, Any]) -> Array:
    if isinstance(grid := arguments.get("grid"), list):
        return np.array(grid)
    points = np.arange(arguments["steps"] + 1) / arguments["steps"]
    noise_level = 1.0 - points
    shift = arguments.get("shift", 1.0)
    return 1.0 - shift * noise_level / (1.0 + (shift - 1.0) * noise_level)


@pytest.mark.parametrize("estimate", [linear, nonlinear])
@pytest.mark.parametrize("arguments", GRIDS, ids=str)
@pytest.mark.parametrize("solver", sorted(TEXTBOOK))
def test_rows_are_the_textbook_solver(
    solver: str, arguments: dict[str, Any], estimate: Estimate
) -> None:
    x = 2.0 * np.random.default_rng(3).standard_normal(SHAPE)
    for a_min in (0.01, 0.05, 0.2) if SOLVERS[solver].divides else (None,):
        table = solver_table(solver, a_min=a_min, **arguments)
        expected = TEXTBOOK[solver](x, times(arguments), a_min or 0.0, estimate)
        assert np.abs(run(table, estimate) - expected).max() < TOLERANCE


def test_the_shift_equals_a_change_of_noise_scale() -> None:
    t = solver_table("euler", steps=8, grid="shifted", shift=2.0).column("t")
    uniform = solver_table("euler", steps=8).column("t")
    # x_t over its two coefficients' sum: noise of scale 2 at t is noise of scale 1 further back.
    np.testing.assert_allclose(t, uniform / (uniform + 2.0 * (1.0 - uniform)), atol=1e-15)
    assert (t[1:] < uniform[1:]).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 100])
@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "dpmpp2m"])
def test_last_row_lands_on_the_estimate(solver: str, steps: int) -> None:
    a_min = 1.0 / steps if SOLVERS[solver].divides else None
    last = solver_table(solver, steps=steps, a_min=a_min).rows[-1]
    a, b, c, n = last[1:5]
    # One division and one subtraction away from exact; measured at most 1.4e-15.
    np.testing.assert_allclose([a, b, c, n], [0.0, 1.0, 0.0, 0.0], atol=1e-14)


def test_dpmpp2m_lands_exactly() -> None:
    for steps in range(1, 60):
        assert solver_table("dpmpp2m", steps=steps).rows[-1, 1:5].tolist() == [0.0, 1.0, 0.0, 0.0]


def residual(table: Table) -> tuple[float, float]:
    """What is left of x at t = 1 where the estimate is always 0: of the start, of t >= 0.95."""
    x, h, late = np.ones((1, 3, 1, 1)), np.zeros((1, 3, 1, 1)), np.ones((1, 3, 1, 1))
    times = table.column("t")
    for row in table.steps(dtype=np.float64):
        # Heun evaluates a time twice, first at a predictor that is not a state of the trajectory.
        if row.t == times[times >= 0.95 - 1e-9].min():
            late = x
        x, h = advance(x, h, np.zeros((1, 1, 3, 1, 1)), row.weights, row.values)
    return float(x.max()), float(x.max() / late.max())


# The published floor leaves noise: docs/reference/sampling.md prints these figures.
@pytest.mark.parametrize(
    ("steps", "of_start", "of_late"),
    [
        (20, 0.0, 0.0),
        (25, 0.008, 0.2),
        (28, 1 / 98, 2 / 7),
        (50, 0.0144, 0.36),
        (100, 0.05 * 0.8**5, 0.8**5),
        (200, 0.05 * 0.9**10, 0.9**10),
    ],
)
def test_floor_leaves_a_residual(steps: int, of_start: float, of_late: float) -> None:
    got = residual(solver_table("euler", steps=steps, a_min=0.05))
    # Rounding; measured at most 1.9e-15.
    np.testing.assert_allclose(got, (of_start, of_late), atol=1e-13)
    if steps <= 100:
        landed = residual(solver_table("euler", steps=steps, a_min=0.01))
        np.testing.assert_allclose(landed, (0.0, 0.0), atol=1e-13)


def test_residual_of_the_documented_solvers() -> None:
    figures = {
        (solver, steps): round(residual(solver_table(solver, steps=steps, a_min=0.05))[1], 2)
        for solver in ("euler", "heun", "ab2")
        for steps in (20, 25, 50, 100)
    }
    assert figures == {
        ("euler", 20): 0.0, ("euler", 25): 0.2, ("euler", 50): 0.36, ("euler", 100): 0.33,
        ("heun", 20): 0.0, ("heun", 25): 0.2, ("heun", 50): 0.41, ("heun", 100): 0.36,
        ("ab2", 20): 0.0, ("ab2", 25): 0.2, ("ab2", 50): 0.39, ("ab2", 100): 0.36,
    }  # fmt: skip


def test_noise_rows_leave_history_alone() -> None:
    table = solver_table("sde", steps=5)
    n = table.column("n")
    assert (n[:-1] > 0).all() and n[-1] == 0
    assert not table.column("c").any() and not table.column("s").any()


def test_a_min_belongs_to_solvers_that_divide() -> None:
    with pytest.raises(UsageError, match="dpmpp2m does not divide by 1 - t and takes no a_min"):
        solver_table("dpmpp2m", steps=5, a_min=0.05)
    assert solver_table("dpmpp2m", steps=5).meta["a_min"] is None
    assert solver_table("ab2", steps=5).meta["a_min"] == 0.05
    assert solver_table("ab2", steps=5) == solver_table("ab2", steps=5, a_min=0.05)


@pytest.mark.parametrize("solver", ["euler-4e-2", "mean-flow"])
def test_a_solver_with_a_fixed_grid_takes_no_other(solver: str) -> None:
    for arguments in ({"grid": [0.0, 1.0]}, {"steps": 4, "grid": "shifted", "shift": 2.0}):
        with pytest.raises(UsageError, match=f"the grid of solver {solver} is fixed"):
            solver_table(solver, **arguments)
    with pytest.raises(UsageError, match="10000, got None"):
        solver_table(solver)


def test_names_and_meta_say_the_grid() -> None:
    shifted = solver_table("dpmpp2m", steps=20, grid="shifted", shift=2.5)
    assert shifted.name == "dpmpp2m-20-shift2.5"
    assert (shifted.meta["grid"], shifted.meta["shift"]) == ("shifted", 2.5)
    free = solver_table("ab2", grid=np.array([0.0, 0.25, 1.0]))
    assert (free.name, free.meta["grid"], free.meta["steps"]) == ("ab2-2-free", "free", 2)
    assert Table.from_json(free.to_json()) == free


@pytest.mark.parametrize(
    ("interval", "steps", "inside"),
    [
        ((0.1, 0.3), 10, [1, 2, 3]),
        ((0.2, 0.8), 100, list(range(20, 81))),
        ((0.5, 0.5), 10, [5]),
        ((0.0, 0.0), 10, [0]),
        ((0.31, 0.39), 10, []),
    ],
)
def test_interval_holds_its_bounds(
    interval: tuple[float, float], steps: int, inside: list[int]
) -> None:
    share = solver_table("euler", steps=steps, interval=interval).column("share")
    assert np.flatnonzero(share).tolist() == inside


def test_interval_counts_every_evaluation_of_heun_at_its_time() -> None:
    table = solver_table("heun", steps=4, interval=(0.25, 0.5))
    assert table.column("t").tolist() == [0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert table.column("share").tolist() == [0, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("interval", [(0.5, 0.2), (-0.1, 1.0), (0.0, 1.1), (0.0, float("nan"))])
def test_wrong_intervals_are_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(UsageError, match="0 <= start <= end <= 1, got"):
        solver_table("euler", steps=4, interval=interval)


def test_no_solver_is_named_in_a_runtime(repository: Path) -> None:
    names = "|".join(re.escape(name) for name in SOLVERS)
    word = re.compile(rf"(?<![a-z0-9])({names})(?![a-z0-9])", re.IGNORECASE)
    assert word.search("the Euler step") and not word.search("sdeclare")
    files = [
        path
        for path in (repository / "runtimes").rglob("*")
        if path.is_file() and not {"__pycache__", "node_modules"} & set(path.parts)
    ]
    assert files
    named = {
        str(path.relative_to(repository)): match.group()
        for path in files
        if (match := word.search(path.read_text(encoding="utf-8", errors="ignore")))
    }
    assert not named
