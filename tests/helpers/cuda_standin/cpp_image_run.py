"""A process on the stand-in: images of the C++ client on provider cuda, with a mark at each row.

    python cpp_image_run.py BUNDLE OPTIONS

OPTIONS is JSON: ``rows`` (number of rows), ``turns`` (as in ``image_run``),
``images``, and under "model" texts of ``minit2i_model_params``. Prints the warnings as JSON, or
under "error" the line of what failed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.solvers.table import Table, solver_table
from tests.helpers.cpp_client import PROGRESS, Client, generate_params
from tests.helpers.cuda_standin.image_run import guided_rows, mark


def main(path: str, options: dict[str, Any]) -> None:
    """Run the images."""
    size = Bundle.open(path).config.image_size
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "own.json"
        _table(options).save(table)
        mark("open")
        settings = {name: value.encode() for name, value in options["model"].items()}
        with Client(Path(path), provider=b"cuda", **settings) as c:
            for number in range(options["images"]):
                mark(f"start {number}")
                progress = PROGRESS(lambda _, done, total, n=number: _mark_row(n, done, total))
                params = generate_params(
                    b"a red circle", table=str(table).encode(), guidance=2.5, on_progress=progress
                )
                try:
                    c.generate(params, size)
                except AssertionError as error:
                    # What the client said.
                    print(json.dumps({"error": str(error)}))
                    return
            mark("close")
            print(json.dumps(c.warnings))


def _table(options: dict[str, Any]) -> Table:
    """Euler's; of its rows some have guidance."""
    table = solver_table("euler", steps=options["rows"])
    if not options["turns"]:
        return table
    rows = table.rows.copy()
    guided = guided_rows(options["turns"], len(rows))
    rows[~np.array(guided), table.columns.index("share")] = 0.0
    return Table(name="turns", columns=table.columns, rows=rows, meta=table.meta)


def _mark_row(number: int, done: int, total: int) -> int:
    """The rows of an image but its first, which is with the start."""
    mark("read" if done == total else f"image {number} row {done}")
    return 0


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
