"""Speed and memory of this working tree beside an older build's, in turns.

    python benchmarks/regression.py v0.1.0 --quick
    python benchmarks/regression.py CHECKOUT-OR-WHEEL-OR-REVISION --only step/b-16/for-cpu

Each build exports its own bundles from the same weights, and measures each figure in processes of
its own: old, new, old, new. Exit 1 where a figure of the new build is worse than ``--bound`` times
the old one's, or cannot be measured while the old one's can. What was measured is kept in
``--work``, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.regression_builds import Build, BuildError, open_build
from benchmarks.regression_cells import CELLS, Cell, Measurements, measure_cell
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.machine import describe_machine, machine_line

_RESAMPLES: Final = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    if options.list:
        print("\n".join(CELLS))
        return 0
    try:
        work = Path(options.work)
        work.mkdir(parents=True, exist_ok=True)
        old = open_build(options.old, work, options.old_python)
        new = open_build(options.new, work, sys.executable)
    except (BuildError, OSError) as error:
        print(f"regression.py: error: {error}", file=sys.stderr)
        return 2
    print(f"old: {old.label}\nnew: {new.label}\n{machine_line(describe_machine())}")
    print("\n| figure | old | new | new / old | 95% | pairs | |")
    print("|---|---|---|---|---|---|---|", flush=True)
    measurements = Measurements(work / "measurements.jsonl")
    verdicts = [_compare(cell, old, new, measurements, options) for cell in _cells(options)]
    num_worse = sum(verdicts)
    print(f"\n{num_worse} of {len(verdicts)} worse than {options.bound:g} times the old build's")
    return int(num_worse > 0)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="regression.py", description="Speed and memory beside an older build's, in turns."
    )
    parser.add_argument(
        "old", metavar="OLD", nargs="?", help="a checkout, a wheel or a git revision"
    )
    parser.add_argument(
        "--new", default=str(Path(__file__).resolve().parents[1]), help="default: this tree"
    )
    parser.add_argument("--quick", action="store_true", help="the cells of the demo model alone")
    parser.add_argument("--only", action="append", metavar="CELL", help="several are possible")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of each cell; default: 7")
    parser.add_argument("--bound", type=float, default=1.1, help="greatest new / old; default: 1.1")
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")
    parser.add_argument("--work", default="build/regression", help="default: build/regression")
    parser.add_argument(
        "--old-python", default=sys.executable, help="with the old build's libraries"
    )
    parser.add_argument("--list", action="store_true", help="print the cells and end")
    options = parser.parse_args(arguments)
    if options.old is None and not options.list:
        parser.error("OLD is missing: pass a checkout, a wheel or a git revision")
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if not options.bound > 0:
        parser.error(f"--bound is {options.bound:g}, expected a positive ratio such as 1.1")
    for name in options.only or []:
        if name not in CELLS:
            parser.error(f"cell {name!r} is unknown; --list prints them")
    return options


def _cells(options: argparse.Namespace) -> list[Cell]:
    if options.only:
        return [CELLS[name] for name in options.only]
    return [cell for cell in CELLS.values() if cell.network == "demo" or not options.quick]


def _compare(
    cell: Cell, old: Build, new: Build, measurements: Measurements, options: argparse.Namespace
) -> bool:
    """Measure a cell and print its line; whether the new build is worse."""
    pairs, reasons = measure_cell(
        cell, (old, new), measurements, rounds=options.rounds, threads=options.threads
    )
    if any(reasons):
        first, second = reasons
        side = "old and new" if first and second else "old" if first else "new"
        print(f"| {cell.name} | | | | | | not measured ({side}): {first or second} |", flush=True)
        return bool(second and not first)
    values = np.array(pairs)
    ratios = values[:, 1] / values[:, 0]
    ratio, (low, high) = float(np.median(ratios)), interval(ratios)
    is_worse = ratio > options.bound
    first, second = (cell.text(float(np.median(values[:, side]))) for side in (0, 1))
    print(
        f"| {cell.name} | {first} | {second} | {ratio:.3f} | {low:.3f} to {high:.3f} | "
        f"{len(pairs)} | {'worse' if is_worse else ''} |",
        flush=True,
    )
    return is_worse


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """95% of the median of some ratios, float64 [n], by bootstrap over the pairs."""
    indices = np.random.default_rng(0).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[indices], axis=1), (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(run_script(main))
