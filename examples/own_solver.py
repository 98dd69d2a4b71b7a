"""A solver of your own: a table of numbers that every runtime follows, in any language.

    python examples/own_solver.py [BUNDLE]

The solver is the midpoint rule on the flow v = (y - x) / (1 - t), where y is the network's
estimate of the clean image. Each step of length dt has two rows:

    p  = x + (dt / 2) (y - x) / (1 - t)            and keeps h = y - x
    x' = x + dt (y_mid - p) / (1 - t - dt / 2)     with x written in terms of p and h

The last step is Euler's, which lands on the estimate. To give a solver a name on the command
line, put its function into ``minit2i_deploy/solvers/methods.py`` and add a line to ``SOLVERS``.

Needs the extra ``cpu``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import minit2i_deploy as m
from minit2i_deploy.demo.ready import ready_bundle

COLUMNS = ("t", "a", "b", "c", "n", "s", "share", "clip", "rescale")


def midpoint(steps: int) -> m.Table:
    """Rows of x' = a x + b y + c h, then h' = y + s x."""
    dt = 1.0 / steps
    rows = []
    for t in np.linspace(0.0, 1.0, steps + 1)[:-2]:
        half = 0.5 * dt / (1.0 - t)
        full = dt / (1.0 - t - 0.5 * dt)
        rows.append([t, 1.0 - half, half, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0])
        rows.append([t + 0.5 * dt, 1.0 - full, full, -half, 0.0, 0.0, 1.0, 0.0, 0.0])
    rows.append([1.0 - dt, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    return m.Table(name=f"midpoint-{steps}", columns=COLUMNS, rows=np.array(rows))


def main(folder: Path) -> None:
    bundle = m.Bundle.open(folder)
    # Solvers that land on the estimate, at about the same number of evaluations.
    tables = [
        midpoint(10),
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
    main(Path(sys.argv[1]) if sys.argv[1:] else ready_bundle("demo"))
