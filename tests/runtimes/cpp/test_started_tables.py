"""Tables that start later: the C++ client compiles the rows that Python compiles."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.methods import SOLVERS
from minit2i_deploy.solvers.repeats import Repeats
from minit2i_deploy.solvers.start import start_table
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.cpp_client import program
from tests.helpers.started_tables import STARTS, TABLES

pytestmark = pytest.mark.cpp

# Measured 0 on x86; another processor may multiply and add in one rounding.
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
    table = adjust_guidance(TABLES["dpmpp2m"], interval=(0.3, 0.7), clip=1.5, rescale=0.25)
    expected, actual = start_table(table, 0.41), client_table(tmp_path, table, 0.41)
    assert actual == expected


REPEATED = solver_table("euler", steps=8, repeats=Repeats(count=2, interval=(0.1, 0.3)))
CONDITIONED = solver_table("mean-flow", steps=4)


@pytest.mark.parametrize(
    ("table", "start", "text"),
    [
        (solver_table("euler", grid=[0.0, 0.3, 1.0]), 0.5, "does not name its solver and grid"),
        (dataclasses.replace(TABLES["ab2"], meta={}), 0.5, "does not name its solver and grid"),
        (CONDITIONED, 0.4, "the steps of solver mean-flow are equal"),
        (REPEATED, 0.5, "repeats need a stretch after t = 0 inside interval"),
    ],
)
def test_starts_that_both_refuse(table: Table, start: float, text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=text):
        start_table(table, start)
    assert text in refusal(tmp_path, table, start)


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        ({"solver": "other"}, "is of solver 'other', which this program cannot start later"),
        ({"steps": 0}, "its meta cannot be read: steps must be 1 to 10000"),
        ({"a_min": "x"}, "its meta cannot be read: a_min"),
        ({"interval": [0.5, 0.2]}, "interval must satisfy 0 <= start <= end <= 1"),
        ({"shift": -1}, "shift must be above 0"),
        ({"repeats": 2, "jump": 0}, "jump must be 1 to 10000"),
    ],
)
def test_a_meta_outside_the_rules(meta: dict[str, Any], text: str, tmp_path: Path) -> None:
    table = TABLES["euler"]
    other = dataclasses.replace(table, meta={**table.meta, **meta})
    assert text in refusal(tmp_path, other, 0.5)


def refusal(tmp_path: Path, table: Table, start: float) -> str:
    table.save(tmp_path / "table.json")
    error = program("start_table", tmp_path / "table.json", repr(start), code=1)
    assert error.count("\n") == 1
    return error
