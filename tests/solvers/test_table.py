"""Solver tables against textbook loops that do divide by 1 - t, and the table file."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.methods import SOLVERS
from minit2i_deploy.solvers.row import GRAPH_COLUMNS, advance
from minit2i_deploy.solvers.table import (
    COLUMNS,
    Table,
    inside_interval,
    solver_table,
)

Image = np.ndarray[Any, np.dtype[Any]]
Field = Callable[[Image, float], Image]
SHAPE = (2, 3, 4, 5)


def estimate(x: Image) -> Image:
    """Stands for the network: a smooth function of the image alone, never of the time."""
    return np.tanh(0.7 * x + 0.1) - 0.3 * np.roll(x, 1, axis=-1)


def run_table(table: Table, x: Image) -> Image:
    h = np.zeros_like(x)
    for row in table.steps(dtype=np.float64):
        x, h = advance(x, h, estimate(x)[None], row.weights, row.values)
    return x


def textbook(x: Image, grid: Image, a_min: float, second_order: bool) -> Image:
    def velocity(state: Image, t: float) -> Image:
        return (estimate(state) - state) / max(1.0 - t, a_min)

    last = len(grid) - 2
    for i in range(last + 1):
        dt = grid[i + 1] - grid[i]
        v = velocity(x, grid[i])
        if second_order and i < last:
            v = 0.5 * (v + velocity(x + dt * v, grid[i + 1]))
        x = x + dt * v
    return x


def start() -> Image:
    return 2.0 * np.random.default_rng(3).standard_normal(SHAPE)


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("a_min", [0.01, 0.05])
@pytest.mark.parametrize("solver", ["euler", "euler-4e-2", "heun"])
def test_table_is_the_textbook_solver(solver: str, steps: int, a_min: float) -> None:
    uniform = np.linspace(0, 1, steps + 1)
    early = np.append(np.linspace(0, 0.96, steps), 1.0)
    grid = early if solver == "euler-4e-2" else uniform
    got = run_table(solver_table(solver, steps=steps, a_min=a_min), start())
    expected = textbook(start(), grid, a_min, solver == "heun")
    # Rounding only; measured at most 1.2e-15.
    assert np.abs(got - expected).max() < 1e-12


@pytest.mark.parametrize("solver", ["euler", "euler-4e-2"])
def test_times_equal_the_official_grid(solver: str, repository: Path) -> None:
    name = f"sampler_{solver.replace('-', '_')}.npz"
    with np.load(repository / "tests" / "golden" / "public" / "arrays" / name) as golden:
        times = golden["timesteps"]
    table = solver_table(solver, steps=6)
    # The official grid is float32: one last bit, 6e-8; measured at most 6e-8.
    np.testing.assert_allclose(table.column("t"), times[:-1], atol=6e-8)


def test_number_of_evaluations() -> None:
    counts = {name: len(solver_table(name, steps=6)) for name in SOLVERS}
    assert counts == {name: 11 if name == "heun" else 6 for name in SOLVERS}


def test_two_euler_steps_by_hand() -> None:
    table = solver_table("euler", steps=2, a_min=0.05)
    assert table.columns == COLUMNS
    assert table.rows.tolist() == [
        [0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
        [0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
    ]


def test_a_row_orders_the_graph_columns_and_puts_noise_in_the_history_slot() -> None:
    assert GRAPH_COLUMNS == ("a", "b", "c", "s", "clip", "rescale")
    rows = np.array([
        [0.0, 1.0, 2.0, 3.0, 0.0, -1.0, 1.0, 4.0, 0.5],
        [0.5, 1.0, 2.0, 0.0, 7.0, -1.0, 1.0, 4.0, 0.5],
    ])  # fmt: skip
    table = Table(name="x", columns=COLUMNS, rows=rows)
    first, second = table.steps()
    assert first.values.tolist() == [1, 2, 3, -1, 4, 0.5]
    assert second.values.tolist() == [1, 2, 7, -1, 4, 0.5]
    assert first.values.dtype == first.weights.dtype == np.float32
    assert [(row.index, row.t, row.draws_noise) for row in (first, second)] == [
        (0, 0.0, False), (1, 0.5, True),
    ]  # fmt: skip
    assert first.slope == -1.0
    order = (4, 1, 2, 3, 0, 8, 5, 6, 7)
    mixed = Table(name="x", columns=tuple(COLUMNS[i] for i in order), rows=rows[:, order])
    assert mixed.steps()[1].values.tolist() == second.values.tolist()


def test_branch_weights_follow_the_interval() -> None:
    table = solver_table("euler", steps=4, interval=(0.25, 0.5))
    assert [row.weights.tolist() for row in table.steps(2.5)] == [
        [1.0], [2.5, -1.5], [2.5, -1.5], [1.0],
    ]  # fmt: skip
    assert table.steps(1.0)[1].weights.tolist() == [1.0]
    assert table.steps(0.0)[1].weights.tolist() == [0.0, 1.0]
    with pytest.raises(UsageError, match="guidance must be finite in float32, got nan"):
        table.steps(float("nan"))


def test_an_interval_holds_its_ends_as_decimals() -> None:
    # 0.1 + 0.2 is the float above 0.3.
    times = np.array([0.0, 0.1 + 0.2, 0.3, 0.7, 0.7000001])
    assert inside_interval(times, (0.3, 0.7)).tolist() == [False, True, True, True, False]
    for wrong in ((0.5, 0.2), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)):
        with pytest.raises(UsageError, match="0 <= start <= end <= 1, got"):
            inside_interval(times, wrong)


def test_advance_with_everything_on_is_the_written_formula() -> None:
    rng = np.random.default_rng(5)
    x, h = rng.standard_normal((2, *SHAPE))
    x0 = 2 * rng.standard_normal((2, *SHAPE))
    a, b, c, s, clip, rescale = row = np.array([0.3, 0.6, -0.2, -1.0, 1.0, 0.7])
    got_x, got_h = advance(x, h, x0, np.array([2.5, -1.5]), row)
    for k in range(SHAPE[0]):
        cond, uncond = (np.array([min(max(v, -clip), clip) for v in part[k].flat]) for part in x0)
        mix = uncond + 2.5 * (cond - uncond)
        scaled = mix * (np.sqrt(np.var(cond)) / np.sqrt(np.var(mix)))
        y = (rescale * scaled + (1 - rescale) * mix).reshape(SHAPE[1:])
        # float64 rounding of two orders of the same sums; measured at most 2e-15.
        np.testing.assert_allclose(got_x[k], a * x[k] + b * y + c * h[k], atol=1e-13)
        np.testing.assert_allclose(got_h[k], y + s * x[k], atol=1e-13)


def test_advance_leaves_estimates_alone_when_clip_and_rescale_are_off() -> None:
    x = np.zeros(SHAPE, dtype=np.float32)
    x0 = np.full((1, *SHAPE), 5.0, dtype=np.float32)
    row = np.array([0, 1, 0, 0, 0, 0], dtype=np.float32)
    got, history = advance(x, x, x0, np.ones(1, dtype=np.float32), row)
    assert got.dtype == history.dtype == np.float32
    assert np.array_equal(got, x0[0]) and np.array_equal(history, x0[0])


def test_advance_survives_a_flat_image_under_rescale() -> None:
    flat = np.full((1, *SHAPE), 0.5, dtype=np.float32)
    row = np.array([0, 1, 0, 0, 0, 1], dtype=np.float32)
    got, _ = advance(flat[0], flat[0], flat, np.ones(1, dtype=np.float32), row)
    assert np.isfinite(got).all()


def test_advance_refuses_mixed_precision() -> None:
    x = np.zeros(SHAPE, dtype=np.float32)
    row = np.array([0, 1, 0, 0, 0, 0], dtype=np.float64)
    with pytest.raises(UsageError, match=r"float32.*float64"):
        advance(x, x, x[None], np.ones(1, dtype=np.float32), row)


def test_float32_stays_near_float64_over_a_trajectory() -> None:
    table = solver_table("euler", steps=100)
    x = start().astype(np.float32)
    h = np.zeros_like(x)
    for row in table.steps():
        x, h = advance(x, h, estimate(x)[None], row.weights, row.values)
    # Float32 rounding of 100 steps; measured 3.6e-7.
    assert np.abs(x - run_table(table, start())).max() < 2e-6


def test_file_gives_back_every_bit(tmp_path: Path) -> None:
    table = solver_table("heun", steps=13, a_min=0.01, interval=(0.1, 0.9), clip=1.0, rescale=0.7)
    table.save(tmp_path / "t.json")
    back = Table.load(tmp_path / "t.json")
    assert back == table and hash(back) == hash(table)
    assert back.rows.tobytes() == table.rows.tobytes()
    assert back.meta == {"solver": "heun", "steps": 13, "a_min": 0.01, "interval": [0.1, 0.9]}
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_canonical_text() -> None:
    assert solver_table("euler", steps=2).to_json() == (
        "{\n"
        '  "columns": ["t", "a", "b", "c", "n", "s", "share", "clip", "rescale"],\n'
        '  "format_version": 1,\n'
        '  "meta": {"a_min": 0.05, "interval": [0.0, 1.0], "solver": "euler", "steps": 2},\n'
        '  "name": "euler-2",\n'
        '  "rows": [\n'
        "    [0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0],\n"
        "    [0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]\n"
        "  ]\n"
        "}\n"
    )


def test_rows_cannot_be_changed() -> None:
    source = solver_table("euler", steps=2).rows.copy()
    table = Table(name="x", columns=COLUMNS, rows=source)
    source[0, 1] = 9
    assert table.rows[0, 1] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        table.rows[0, 1] = 9
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.name = "y"  # type: ignore[misc]


@pytest.mark.parametrize("steps", [0, -1, 10_001, 2.0, "4", True, None])
def test_wrong_step_counts_are_refused(steps: object) -> None:
    with pytest.raises(UsageError, match=r"steps must be an integer from 1 to 10000, got"):
        inspect.unwrap(solver_table)("euler", steps=steps)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"solver": "rk45"}, "'rk45' is unknown; choose one of euler, euler-4e-2, heun"),
        ({"a_min": 0.0}, "at most 1, got 0.0"),
        ({"a_min": float("nan")}, "at most 1, got nan"),
        ({"interval": (0.5, 0.2)}, "interval must satisfy"),
        ({"interval": (-0.1, 1.0)}, "interval must satisfy"),
        ({"clip": -1.0}, "row 0: clip must be"),
        ({"rescale": 1.5}, "row 0: rescale must be"),
        ({"rescale": float("nan")}, "row 0: every value must be finite"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        solver_table(**{"solver": "euler", "steps": 3, **arguments})


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("a", float("inf"), "row 1: every value must be finite"),
        ("b", 1e39, "row 1: every value must fit float32"),
        ("t", 1.01, "row 1: t must be in 0..1"),
        ("n", 0.5, "row 1: c must be 0"),
    ],
)
def test_wrong_values_are_refused(column: str, value: float, text: str) -> None:
    rows = solver_table("euler", steps=3).rows.copy()
    rows[1, COLUMNS.index("c")] = 0.25
    rows[1, COLUMNS.index(column)] = value
    with pytest.raises(UsageError, match=text):
        Table(name="x", columns=COLUMNS, rows=rows)


def test_wrong_layouts_are_refused() -> None:
    rows = np.zeros((1, 9))
    for columns in (COLUMNS[:-1], (*COLUMNS, "h"), (*COLUMNS[:-1], "t"), (*COLUMNS[:-1], "q")):
        with pytest.raises(UsageError, match="has columns"):
            Table(name="x", columns=columns, rows=rows)
    with pytest.raises(UsageError, match="rows of shape"):
        Table(name="x", columns=COLUMNS, rows=np.zeros((0, 9)))
    with pytest.raises(UsageError, match="rows of shape"):
        Table(name="x", columns=COLUMNS, rows=np.zeros((1, 8)))
    with pytest.raises(UsageError, match="table name"):
        Table(name="a/b", columns=COLUMNS, rows=rows)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format_version": 2}, "format_version is 2, but this program reads 1"),
        ({"extra": 1}, "unknown fields \\['extra'\\]"),
        ({"rows": []}, "expected at least one row"),
        ({"rows": [[0.0] * 9, [0.0] * 8]}, "all of one length"),
        ({"rows": [["0"] * 9]}, "rows\\[0\\]\\[0\\]: expected a finite number, got '0'"),
        ({"rows": "none"}, "table.rows: expected a list, got 'none'"),
    ],
)
def test_hostile_files_are_refused(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    fields = json.loads(solver_table("euler", steps=2).to_json())
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**fields, **change}), encoding="utf-8")
    with pytest.raises(UsageError, match=text) as caught:
        Table.load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"\xff", b'{"rows": NaN}', b'{"rows": 1e999}', b'{"a": 1, "a": 2}',
     b"[" * 100_000],
)  # fmt: skip
def test_text_that_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="not a solver table"):
        Table.from_json(data)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json: cannot be read"):
        Table.load(tmp_path / "none.json")


def test_the_bytes_of_a_table_do_not_depend_on_the_processor() -> None:
    # numpy's logarithm with AVX-512 gave other bytes, in the last bit of a few rows.
    data = solver_table("dpmpp2m", steps=40).to_json().encode()
    assert hashlib.sha256(data).hexdigest() == (
        "0027578cbc7f11c09f39419884478b8e4db3c82ea0a80fbdc3e5ed7e30f8ae1d"
    )
