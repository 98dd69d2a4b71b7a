"""Tables that start later: the C++ client cuts them, which gives the rows that Python compiles."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.methods import SOLVERS
from minit2i_deploy.solvers.start import start_table
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.cpp_client import program
from tests.helpers.started_tables import BETWEEN, REFUSED_STARTS, STARTS, TABLES

pytestmark = pytest.mark.cpp

MAX_ERROR = 1e-12


def client_table(tmp_path: Path, table: Table, start: float) -> Table:
    table.save(tmp_path / "table.json")
    return Table.from_json(program("start_table", tmp_path / "table.json", repr(start)))


def test_the_tables_are_of_every_solver() -> None:
    assert {table.meta["solver"] for table in TABLES.values()} == set(SOLVERS)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_rows_are_those_of_python(name: str, tmp_path: Path) -> None:
    table = TABLES[name]
    for start in STARTS[name]:
        expected, actual = start_table(table, start), client_table(tmp_path, table, start)
        assert (actual.name, actual.meta) == (expected.name, expected.meta)
        assert actual.columns == expected.columns
        np.testing.assert_allclose(actual.rows, expected.rows, rtol=MAX_ERROR, atol=MAX_ERROR)


def test_a_narrowed_interval_stays_narrowed(tmp_path: Path) -> None:
    table = adjust_guidance(TABLES["one step"], interval=(0.3, 0.7), clip=1.5, rescale=0.25)
    for start in (0.41, 0.8):
        expected, actual = start_table(table, start), client_table(tmp_path, table, start)
        np.testing.assert_allclose(actual.rows, expected.rows, rtol=MAX_ERROR, atol=MAX_ERROR)


@pytest.mark.parametrize("name", sorted(REFUSED_STARTS))
def test_other_starts_are_refused(name: str, tmp_path: Path) -> None:
    for start, text in REFUSED_STARTS[name]:
        assert text in refusal(tmp_path, TABLES[name], start)


def test_an_unknown_floor_is_no_line(tmp_path: Path) -> None:
    """Where a table does not name its floor, its own last row tells."""
    table = TABLES["euler"]
    meta = {name: value for name, value in table.meta.items() if name != "a_min"}
    floored = dataclasses.replace(solver_table("euler", steps=40, a_min=0.1), meta=meta)
    assert BETWEEN in refusal(tmp_path, floored, 0.93)


def test_a_table_that_starts_later_already(tmp_path: Path) -> None:
    table = solver_table("euler", steps=10, start=0.4)
    assert "starts at t = 0.4, so strength is at most 0.6" in refusal(tmp_path, table, 0.3)


def refusal(tmp_path: Path, table: Table, start: float) -> str:
    table.save(tmp_path / "table.json")
    error = program("start_table", tmp_path / "table.json", repr(start), code=1)
    assert error.count("\n") == 1
    return error
