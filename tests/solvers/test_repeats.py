"""Repeated stretches of time: tables against RePaint as a loop, and the noise they leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.other_steps import with_steps
from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.repeats import Repeats, added_noise
from minit2i_deploy.solvers.row import Known, advance
from minit2i_deploy.solvers.start import start_table
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.bundles import write_bundle
from tests.helpers.cli_runs import run

Denoiser = Callable[[np.ndarray], np.ndarray]
SHAPE = (2, 3, 4, 4)
KNOWN = Known(
    image=np.random.default_rng(0).uniform(-1, 1, SHAPE),
    mask=np.random.default_rng(1).choice([0.0, 1.0], (2, 1, 4, 4)),
)


def denoise(x: np.ndarray) -> np.ndarray:
    """Some estimate in which every pixel sees the others."""
    return np.tanh(0.7 * x + 0.3 * x.mean(axis=(1, 2, 3), keepdims=True))


def run_table(table: Table, x: np.ndarray, noises: np.ndarray) -> np.ndarray:
    """A table's rows in float64, with known pixels."""
    h = np.zeros_like(x)
    for row in table.steps(dtype=np.float64):
        history = noises[row.index] if row.draws_noise else h
        x, h = advance(x, history, denoise(x)[None], row.weights, row.values, KNOWN)
    return x


def repaint_loop(
    x: np.ndarray, noises: np.ndarray, steps: int, jump: int, count: int, scale: float
) -> np.ndarray:
    """RePaint with Euler steps of the flow, as nested loops over times and passes."""
    grid = np.linspace(0.0, 1.0, steps + 1)
    used = 0
    for first in range(0, steps, jump):
        last = min(first + jump, steps)
        turns = count if first else 1
        for turn in range(turns):
            for i in range(first, last):
                estimate = KNOWN.mask * KNOWN.image + (1 - KNOWN.mask) * denoise(x)
                velocity = (estimate - x) / max(1.0 - grid[i], 1e-6)
                x = x + (grid[i + 1] - grid[i]) * velocity
                used += 1
            if turn < turns - 1:
                # The signal shrinks to that of the earlier time; noise fills up to its level.
                shrink = grid[first] / grid[last]
                remaining = (scale * shrink * (1 - grid[last])) ** 2
                deviation = np.sqrt((scale * (1 - grid[first])) ** 2 - remaining)
                x = shrink * x + deviation * noises[used - 1]
    return x


@pytest.mark.parametrize(("jump", "count"), [(1, 4), (2, 3), (4, 2), (8, 3)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_table_is_repaint(jump: int, count: int, scale: float) -> None:
    rng = np.random.default_rng(2)
    x = scale * rng.standard_normal(SHAPE)
    noises = rng.standard_normal((64, *SHAPE))
    repeats = Repeats(count=count, jump=jump, noise_scale=scale)
    if jump == 8:
        with pytest.raises(UsageError, match="need a stretch after t = 0"):
            solver_table("euler", steps=8, a_min=1e-6, repeats=repeats)
        return
    table = solver_table("euler", steps=8, a_min=1e-6, repeats=repeats)
    expected = repaint_loop(x, noises, 8, jump, count, scale)
    # Measured 1.3e-15.
    np.testing.assert_allclose(run_table(table, x, noises), expected, atol=1e-12)


def test_without_repeats_nothing_changes() -> None:
    plain = solver_table("dpmpp2m", steps=8)
    assert solver_table("dpmpp2m", steps=8, repeats=Repeats(count=1, jump=3)) == plain
    assert plain.rows[-1, 1:4].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("solver", ["euler", "ab2", "heun", "dpmpp2m"])
def test_a_pass_is_a_trajectory_of_its_own(solver: str) -> None:
    """History never crosses a jump: each pass has the rows of a table over its times."""
    repeats = Repeats(count=3, interval=(0.2, 0.6))
    table = solver_table(solver, steps=10, repeats=repeats)
    t, noise = table.column("t"), table.column("n")
    jumps = np.flatnonzero(noise)
    assert table.name == f"{solver}-10-r3-0.2-0.6" and len(jumps) == 2
    np.testing.assert_allclose(t[jumps + 1], 0.2)
    assert (table.column("c")[[*jumps, *(jumps + 1)]] == 0).all()
    assert (np.flatnonzero(np.diff(t) < 0) == jumps).all()
    np.testing.assert_allclose(noise[jumps], added_noise(0.6, 0.2, 2.0))
    # The last pass is the second one, without its end that goes back.
    size = jumps[1] - jumps[0]
    again = table.rows[jumps[1] + 1 : jumps[1] + size]
    np.testing.assert_array_equal(table.rows[jumps[0] + 1 : jumps[1]], again)


@pytest.mark.parametrize("times", [(0.5, 0.25), (1.0, 0.25), (0.9, 0.8)])
def test_the_noise_level_is_that_of_the_earlier_time(times: tuple[float, float]) -> None:
    t, earlier = times
    shrink = earlier / t
    total = (shrink * (1 - t) * 2.0) ** 2 + added_noise(t, earlier, 2.0) ** 2
    assert total == pytest.approx(((1 - earlier) * 2.0) ** 2, rel=1e-12)


def test_an_exact_denoiser_still_samples_its_data() -> None:
    """Of Gaussian data of deviation 0.5, repeats leave the deviation."""
    table = solver_table("dpmpp2m", steps=200, repeats=Repeats(count=4, jump=40))
    rng = np.random.default_rng(3)
    x = 2.0 * rng.standard_normal((1, 1, 1, 20_000))
    h = np.zeros_like(x)
    for row, t in zip(table.steps(dtype=np.float64), table.column("t"), strict=True):
        # E[x0 | x] of x = t x0 + 2 (1 - t) noise, x0 of deviation 0.5.
        gain = 0.25 * t / (0.25 * t**2 + 4.0 * (1 - t) ** 2)
        history = rng.standard_normal(x.shape) if row.draws_noise else h
        x, h = advance(x, history, (gain * x)[None], row.weights, row.values)
    # Measured 0.499.
    assert x.std() == pytest.approx(0.5, abs=0.02)


def test_other_tables_of_a_repeated_one_repeat_too(tmp_path: Path) -> None:
    repeats = Repeats(count=3, interval=(0.25, 0.75))
    table = solver_table("ab2", steps=8, repeats=repeats, interval=(0.0, 0.5))
    later = start_table(table, 0.5)
    assert later.column("t")[:5].tolist() == [0.5, 0.625, 0.5, 0.625, 0.5]
    assert later.column("share")[:2].tolist() == [1, 0]
    assert Table.from_json(table.to_json()) == table
    narrowed = adjust_guidance(table, clip=1.0)
    assert Repeats.of_meta(narrowed.meta) == repeats
    write_bundle(tmp_path / "b")
    bundle = Bundle.open(tmp_path / "b")
    other = with_steps(bundle, bundle.compile_table("ab2", 8, repeats=repeats), 16)
    assert Repeats.of_meta(other.meta) == repeats and len(other) == 16 + 2 * 8


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"count": 0}, "count of repeats must be an integer from 1 to 1000, got 0"),
        ({"count": True}, "count of repeats must be an integer"),
        ({"jump": 0}, "jump must be a number of steps, 1 or more, got 0"),
        ({"interval": (0.5, 0.5)}, "interval of repeats must satisfy"),
        ({"interval": (float("nan"), 1.0)}, "interval of repeats must satisfy"),
        ({"noise_scale": 0.0}, "noise_scale must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Repeats(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("solver", "repeats", "text"),
    [
        ("sde", Repeats(count=2, jump=1), "repeats need a solver without noise"),
        ("euler", Repeats(count=2, interval=(0.31, 0.32)), "need a stretch after t = 0"),
        ("euler", Repeats(count=1000, jump=1), "39001 rows, expected at most 20000"),
    ],
)
def test_repeats_that_do_not_fit_are_refused(solver: str, repeats: Repeats, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        solver_table(solver, steps=40, repeats=repeats)


def test_the_command_compiles_them(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("table", "--solver", "ab2", "--steps", 10, "--repeats", 3, "--between", 0.2, 0.6)
    repeats = Repeats(count=3, interval=(0.2, 0.6))
    expected = solver_table("ab2", steps=10, repeats=repeats)
    assert Table.from_json(run(capsys, *arguments, "--json").out) == expected
    refused = run(capsys, "table", "--solver", "ab2", "--steps", 10, "--jump", 2)
    assert (refused.code, "--jump requires --repeats N" in refused.error) == (2, True)
