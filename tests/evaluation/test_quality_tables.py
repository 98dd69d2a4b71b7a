"""Words to tables, adjusted columns, and the fine grid that a table is compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.quality.candidates import Candidate, list_candidates, parse_table
from minit2i_deploy.evaluation.quality.fine_reference import end_floor, fine_table
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.row import advance
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.bundles import write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_bundle(tmp_path / "b"))


def same_rows(a: Table, b: Table) -> bool:
    return a.columns == b.columns and np.array_equal(a.rows, b.rows)


def test_names_of_tables(bundle: Bundle, tmp_path: Path) -> None:
    assert parse_table(bundle, "euler-4") == bundle.table("euler-4")
    solver_table("ab2", steps=7).save(tmp_path / "own.json")
    assert parse_table(bundle, str(tmp_path / "own.json")).name == "ab2-7"
    assert parse_table(bundle, "dpmpp2m:20") == solver_table("dpmpp2m", steps=20)
    shifted = solver_table("heun", steps=6, grid="shifted", shift=2.0)
    assert parse_table(bundle, "heun:6:shift=2") == shifted


def test_the_flavour_gives_a_min_unless_it_is_named(bundle: Bundle) -> None:
    assert parse_table(bundle, "euler:100").meta["a_min"] == bundle.manifest.flavour.a_min == 0.05
    named = parse_table(bundle, "euler:100:a_min=0.02")
    assert (named.name, named.meta["a_min"]) == ("euler-100-a0.02", 0.02)


@pytest.mark.parametrize("spec", ["euler:100", "ab2:30", "heun:40:shift=0.5", "ab2:25:shift=3"])
def test_land_ends_on_the_estimate(bundle: Bundle, spec: str) -> None:
    table = parse_table(bundle, f"{spec}:a_min=land")
    assert table.name.endswith("-land")
    a, b, c = (table.column(name)[-1] for name in "abc")
    assert (a, b, c) == pytest.approx((0, 1, 0), abs=1e-12)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("nothing", "euler-4"),
        ("missing.json", "missing.json"),
        ("elder:20", "solver 'elder' is unknown; choose one of euler"),
        ("euler:many", "expected an integer number of steps, got 'many'"),
        ("euler:0", "10000, got 0"),
        ("euler:20:fast", "'fast' is not a setting"),
        ("euler:20:clip=1", "'clip=1' is not a setting"),
        ("euler:20:shift=2:shift=3", "'shift=3' is not a setting"),
        ("euler:20:shift=x", "shift: expected a number, got 'x'"),
        ("euler:20:a_min=0", "at most 1, got 0.0"),
        ("dpmpp2m:20:a_min=land", "takes no a_min"),
    ],
)
def test_wrong_table_names_are_refused(bundle: Bundle, spec: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_table(bundle, spec)
    assert text in str(caught.value)


def test_adjusted_columns_are_the_compilers() -> None:
    plain = solver_table("heun", steps=10)
    expected = solver_table("heun", steps=10, interval=(0.3, 0.7), clip=1.0, rescale=0.5)
    actual = adjust_guidance(plain, interval=(0.3, 0.7), clip=1.0, rescale=0.5)
    assert same_rows(actual, expected)
    assert actual.name == "heun-10-i0.3-0.7-clip1-rescale0.5"
    assert adjust_guidance(plain) == plain


def test_adjusting_refuses_what_makes_no_sense() -> None:
    with pytest.raises(UsageError, match=r"got \(0.7, 0.3\)"):
        adjust_guidance(solver_table("euler", steps=4), interval=(0.7, 0.3))
    with pytest.raises(UsageError, match=r"rescale must be in 0\.\.1"):
        adjust_guidance(solver_table("euler", steps=4), rescale=1.5)
    with pytest.raises(UsageError, match="few-step student, which takes no interval"):
        adjust_guidance(solver_table("mean-flow", steps=4), interval=(0.2, 0.8))


def test_evaluations_are_branches_over_rows() -> None:
    half = solver_table("euler", steps=10, interval=(0.45, 1.0))
    assert Candidate(name="a", table=half, guidance=3.0).num_evaluations == 15
    assert Candidate(name="a", table=half, guidance=1.0).num_evaluations == 10
    heun = solver_table("heun", steps=10)
    assert Candidate(name="a", table=heun, guidance=3.0).num_evaluations == 38


def test_names_hold_the_scale_where_there_are_several() -> None:
    tables = [solver_table("euler", steps=n) for n in (4, 8)]
    assert [one.name for one in list_candidates(tables, [2.5])] == ["euler-4", "euler-8"]
    names = [one.name for one in list_candidates(tables, [1.0, 2.5])]
    assert names == ["euler-4@1", "euler-4@2.5", "euler-8@1", "euler-8@2.5"]
    with pytest.raises(UsageError, match="at least one table and one guidance scale"):
        list_candidates(tables, [])


@pytest.mark.parametrize(
    ("table", "floor"),
    [
        (solver_table("euler", steps=100), 0.05),
        (solver_table("heun", steps=60, a_min=0.03), 0.03),
        (solver_table("ab2", steps=200, a_min=0.01), 0.01),
        (solver_table("euler-4e-2", steps=30), 0.05),
        (solver_table("euler", steps=20), 0.0),
        (solver_table("dpmpp2m", steps=50), 0.0),
        (solver_table("sde", steps=50), None),
        (solver_table("mean-flow", steps=4), None),
    ],
)
def test_the_end_is_read_off_the_last_row(table: Table, floor: float | None) -> None:
    actual = end_floor(table)
    assert (actual is None) == (floor is None)
    # Measured 2e-16.
    assert floor is None or actual == pytest.approx(floor, abs=1e-9)
    assert (fine_table(table, 1000) is None) == (floor is None)


def test_the_fine_grid_holds_the_tables_guidance() -> None:
    table = solver_table("dpmpp2m", steps=10, interval=(0.3, 0.6), clip=1.0, rescale=0.25)
    fine = fine_table(table, 1000)
    assert fine is not None and len(fine) == 1000
    t = fine.column("t")
    # Row 0.6 is guided and the next is at 0.7. Times within rounding of a row are left out.
    apart = np.abs(t * 10 - np.round(t * 10)) > 1e-6
    assert np.array_equal(fine.column("share")[apart], ((t > 0.3) & (t < 0.7))[apart] * 1.0)
    assert fine.column("share").sum() == 400
    assert set(fine.column("clip")) == {1.0} and set(fine.column("rescale")) == {0.25}


def test_a_grid_that_is_not_fine_is_refused() -> None:
    with pytest.raises(
        UsageError, match="expected at least 400 for the 100 rows of table euler-100"
    ):
        fine_table(solver_table("euler", steps=100), 399)


def run_toy(table: Table) -> np.ndarray:
    """A nonlinear two-branch estimate that knows no time, in float64."""
    x = np.linspace(-2, 2, 12).reshape(1, 3, 2, 2)
    h = np.zeros_like(x)
    for row in table.steps(2.0, np.float64):
        x0 = np.stack([np.tanh(x + 0.3), 0.8 * np.sin(x)])
        x, h = advance(x, h, x0[: len(row.weights)], row.weights, row.values)
    return x


@pytest.mark.parametrize("a_min", [0.05, None])
def test_tables_near_their_fine_grid(a_min: float | None) -> None:
    """With the floor as without it, and the fine grid is far nearer to a finer one."""
    solver = "euler" if a_min else "dpmpp2m"
    tables = [solver_table(solver, steps=steps, a_min=a_min) for steps in (100, 200)]
    errors = []
    for table in tables:
        fine = fine_table(table, 1000)
        assert fine is not None
        errors.append(float(np.abs(run_toy(table) - run_toy(fine)).max()))
    assert errors[0] > 1.7 * errors[1]
    coarse, finer = fine_table(tables[0], 1000), fine_table(tables[0], 8000)
    assert coarse is not None and finer is not None
    difference = float(np.abs(run_toy(coarse) - run_toy(finer)).max())
    assert difference < errors[1] / 4
