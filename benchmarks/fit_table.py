"""An experiment: do coefficients fitted to trajectories beat ab2 at the same times?

    python benchmarks/fit_table.py fit

A row of ab2 is x' = (1 - b) x + b y + c h with h = y - x of the row before. An exact solve of a
constant estimate asks for b (1 - t) + c (1 - t_before) = dt, which leaves one number a row, c. It
is fitted by least squares along the table's own trajectories to fine states, half of the way in a
sweep; sweeps end when the median PSNR on the choose set stops rising. The verdict is of fresh
captions and noise. A row of more freedom would break that identity.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.output_paths import write_json
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.errors import Minit2iError, UsageError
from minit2i_deploy.evaluation.quality.image_metrics import psnr
from minit2i_deploy.evaluation.shapes import KINDS, held_out_captions
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.request import Request
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.table import COLUMNS, Table, solver_table

OUTLIER_DB: Final = 20.0
MAX_SWEEPS: Final = 8
DAMPING: Final = 0.5
# Fit, choose, test: captions and noise of other seeds.
SEEDS: Final = (101, 102, 103)
# One row that returns the guided estimate in place of the next state.
_ESTIMATE: Final = Table(
    name="estimate",
    columns=COLUMNS,
    rows=np.array([[{"b": 1.0, "share": 1.0}.get(name, 0.0) for name in COLUMNS]]),
)

Estimate = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trajectories:
    """Start noise of some captions, and the fine states at the times of a grid.

    Args:
        estimate: x to the guided x0, both float32 [B, 3, H, W].
        noise: float32 [B, 3, H, W], scaled.
        states: float32 [fine steps + 1, B, 3, H, W].
    """

    estimate: Estimate
    noise: np.ndarray
    states: np.ndarray


def trajectories(
    bundle: Bundle, runtime: Runtime, seed: int, per_kind: int, fine: Table
) -> Trajectories:
    """Solve some captions finely."""
    captions = [caption for _, caption in held_out_captions(per_kind, seed)]
    seeds = [1000 * seed + i for i in range(len(captions))]
    request = Request.of(bundle, captions, seed=seeds, table=_ESTIMATE)
    tokens, row = request.tokens(bundle, runtime), request.rows[0]

    def estimate(x: np.ndarray) -> np.ndarray:
        trajectory = runtime.start(x, tokens)
        trajectory.step(row)
        return trajectory.state()[0]

    noise = request.start(bundle)
    return Trajectories(estimate=estimate, noise=noise, states=solve(estimate, noise, fine))


def solve(estimate: Estimate, noise: np.ndarray, table: Table) -> np.ndarray:
    """Every state of a table's run: float32 [rows + 1, B, 3, H, W]."""
    x, h = noise, np.zeros_like(noise)
    states = [x]
    for a, b, c, s in np.column_stack([table.column(name) for name in "abcs"]).astype(np.float32):
        y = estimate(x)
        x, h = a * x + b * y + c * h, y + s * x
        states.append(x)
    return np.stack(states)


def with_history(table: Table, c: np.ndarray) -> Table:
    """The table with other coefficients of the history; b follows from the exact solve.

    Args:
        table: ab2.
        c: float64 [n]; 0 in the first row.
    """
    t = table.column("t")
    ends = np.append(t[1:], 1.0)
    before = np.append(0.0, 1.0 - t[:-1])
    b = (ends - t - c * before) / (1.0 - t)
    rows = table.rows.copy()
    for name, values in {"a": 1.0 - b, "b": b, "c": c}.items():
        rows[:, table.columns.index(name)] = values
    return Table(name=f"{table.name}-fitted", columns=table.columns, rows=rows)


def fitted_history(data: Trajectories, table: Table, fine: Table) -> np.ndarray:
    """Least squares c of each row, along the table's own trajectory: float64 [n]."""
    t = table.column("t")
    ends = np.append(t[1:], 1.0)
    x, h = data.noise, np.zeros_like(data.noise)
    c = np.zeros(len(table))
    for k, (a, b, old, s) in enumerate(
        np.column_stack([table.column(name) for name in "abcs"]).astype(np.float32)
    ):
        y = data.estimate(x)
        # A row of c = 0 is Euler's, and c moves it along h - (1 - t_before) / (1 - t) (y - x).
        if 0 < k < len(table) - 1:
            step = np.float32((ends[k] - t[k]) / (1.0 - t[k]))
            target = _fine_state(data, ends[k], fine) - (x + step * (y - x))
            direction = h - np.float32((1.0 - t[k - 1]) / (1.0 - t[k])) * (y - x)
            c[k] = float((direction * target).sum() / (direction * direction).sum())
        x, h = a * x + b * y + old * h, y + s * x
    return c


def _fine_state(data: Trajectories, time: float, fine: Table) -> np.ndarray:
    """The fine solution at a time, linear between two of its points."""
    points = np.append(fine.column("t"), 1.0)
    index = min(int(np.searchsorted(points, time, side="right")) - 1, len(fine) - 1)
    share = np.float32((time - points[index]) / (points[index + 1] - points[index]))
    return (1 - share) * data.states[index] + share * data.states[index + 1]


def distances(data: Trajectories, table: Table) -> np.ndarray:
    """PSNR of each final state to the fine one: float64 [B], decibels."""
    return psnr(solve(data.estimate, data.noise, table)[-1], data.states[-1])


def fit(fit_set: Trajectories, choose_set: Trajectories, table: Table, fine: Table) -> Table:
    """Sweeps from ab2's own coefficients until the choose set's median stops rising."""
    best, best_db = table, float(np.median(distances(choose_set, table)))
    current = table
    for sweep in range(MAX_SWEEPS):
        c = fitted_history(fit_set, current, fine)
        current = with_history(table, (1 - DAMPING) * current.column("c") + DAMPING * c)
        median = float(np.median(distances(choose_set, current)))
        print(f"  sweep {sweep + 1}: choose set {best_db:.2f} -> {median:.2f} dB", flush=True)
        if median <= best_db:
            break
        best, best_db = current, median
    return best


def run(options: argparse.Namespace) -> None:
    """Fit, choose and test for every grid; write tables and report."""
    options.output.mkdir(parents=True, exist_ok=True)
    bundle = Bundle.open(options.bundle or ready_bundle("demo"))
    fine = solver_table("ab2", steps=options.fine_steps, a_min=1 / options.fine_steps)
    results: list[dict[str, Any]] = []
    with open_runtime(bundle, "onnxruntime") as runtime:
        sizes = (options.per_kind, options.choose_per_kind, options.per_kind)
        fit_set, choose_set, test_set = (
            trajectories(bundle, runtime, seed, size, fine)
            for seed, size in zip(SEEDS, sizes, strict=True)
        )
        for rows in options.rows:
            # The smallest last step of these grids is longer than this floor, so they land.
            table = solver_table("ab2", steps=rows, grid="shifted", shift=2.0, a_min=0.05)
            print(f"{table.name}, {len(fit_set.noise)} trajectories", flush=True)
            fitted = fit(fit_set, choose_set, table, fine)
            fitted.save(options.output / f"{fitted.name}.json")
            each = [distances(test_set, item) for item in (table, fitted)]
            results.append(_result(table, *each))
            print(_line(results[-1]), flush=True)
    write_json(options.output / "fit_table.json", {"bundle": bundle.digest, "results": results})


def _result(table: Table, plain: np.ndarray, fitted: np.ndarray) -> dict[str, Any]:
    better = int((fitted > plain).sum())
    return {
        "table": table.name,
        "captions": len(plain),
        "median_db": [float(np.median(plain)), float(np.median(fitted))],
        "outliers": [float((one < OUTLIER_DB).mean()) for one in (plain, fitted)],
        "nearer": better,
    }


def _line(result: dict[str, Any]) -> str:
    (plain, fitted), (before, after) = result["median_db"], result["outliers"]
    return (
        f"| {result['table']} | {plain:.1f} | {fitted:.1f} | {before:.3f} | {after:.3f} | "
        f"{result['nearer']} of {result['captions']} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    try:
        run(options)
    except Minit2iError as error:
        sys.stderr.write(f"fit_table: error: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fit tables to trajectories, and judge them.")
    parser.add_argument("output", type=Path, help="folder for tables and report")
    parser.add_argument("--bundle", type=Path, help="of a base model (default: demo)")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 12, 16], help="of the tables")
    parser.add_argument(
        "--per-kind", type=int, default=11, help="captions a kind to fit and to test (default 11)"
    )
    parser.add_argument("--choose-per-kind", type=int, default=6, help="likewise (default 6)")
    parser.add_argument("--fine-steps", type=int, default=96, help="default 96")
    options = parser.parse_args(arguments)
    num_free = max(options.rows) - 2
    if len(KINDS) * options.per_kind <= num_free:
        parser.error(f"--per-kind {options.per_kind} gives fewer trajectories than {num_free} rows")
    return options


if __name__ == "__main__":
    sys.exit(run_script(main))
