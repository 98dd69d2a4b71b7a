"""A solver of your own: one function, one registration, and every runtime runs it.

    python examples/own_solver.py [BUNDLE]

The solver is the midpoint rule on the flow v = (y - x) / (1 - t), where y is the network's
estimate of the clean image. Each step of length dt has two rows:

    p  = x + (dt / 2) (y - x) / (1 - t)            and keeps h = y - x
    x' = x + dt (y_mid - p) / (1 - t - dt / 2)     with x = p - (dt / 2) h / (1 - t)

The last step is Euler's, which lands on the estimate. ``table.save("midpoint.json")`` writes the
table for ``minit2i generate --table`` and for the C++ client.

Needs the extra ``cpu``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import minit2i_deploy as m
from minit2i_deploy.solvers.methods import SOLVERS, Solver


def midpoint(points: np.ndarray, a_min: float) -> np.ndarray:
    """Points of a time grid to rows t, a, b, c, n, s: x' = a x + b y + c h, then h' = y + s x."""
    rows = []
    for t, dt in zip(points[:-2], np.diff(points)[:-1], strict=True):
        half = 0.5 * dt / max(1.0 - t, a_min)
        full = dt / max(1.0 - t - 0.5 * dt, a_min)
        rows.append([t, 1.0 - half, half, 0.0, 0.0, -1.0])
        rows.append([t + 0.5 * dt, 1.0 - full, full, -half, 0.0, 0.0])
    last = (points[-1] - points[-2]) / max(1.0 - points[-2], a_min)
    rows.append([points[-2], 1.0 - last, last, 0.0, 0.0, 0.0])
    return np.array(rows)


SOLVERS["midpoint"] = Solver(rows=midpoint)


def main(folder: Path) -> None:
    bundle = m.Bundle.open(folder)
    # An a_min no larger than the last step lets a solver land on the estimate.
    tables = [
        m.solver_table("midpoint", steps=10, a_min=1 / 10),
        m.solver_table("euler", steps=19, a_min=1 / 19),
        m.solver_table("dpmpp2m", steps=19),
    ]
    fine = m.solver_table("ab2", steps=100, a_min=1 / 100)
    prompts, seeds = ["a red circle"] * 4, [7, 8, 9, 10]
    with m.open_runtime(bundle) as runtime:
        # Without guidance one branch is run, and the error is that of the solver alone.
        images = m.generate(bundle, runtime, prompts, seed=seeds, table=fine, guidance=1.0)
        for table in tables:
            result = m.generate(bundle, runtime, prompts, seed=seeds, table=table, guidance=1.0)
            error = np.sqrt(np.mean((result.x - images.x) ** 2))
            print(f"{table.name:12} {len(table)} rows, {error:.4f} from {fine.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else m.ready_bundle("demo"))
