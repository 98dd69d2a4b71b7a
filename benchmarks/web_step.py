"""The JavaScript module in Node against the Python runtime: guided steps, start-up and memory.

    sh scripts/setup_web.sh .venv/bin/python
    python benchmarks/web_step.py BUNDLE --rows 6 --rounds 5

WebAssembly (onnxruntime-web), onnxruntime-node and Python's onnxruntime run in turns, each in a
process of its own, with the same threads, rows and guidance. A step is the median of all rows but
the first; the ratio is that of the medians of each round. Memory is the kernel's peak.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.cli.support.script import run_script

WEB: Final = Path(__file__).resolve().parent.parent / "runtimes" / "web"
NODE: Final = Path(sys.executable).parent / "node"
PYTHON: Final = "python"
PROGRAMS: Final = (PYTHON, "onnxruntime-web", "onnxruntime-node")


def main() -> None:
    """Print a line for each program, and its ratio to Python."""
    options = _arguments()
    if options.child:
        print(json.dumps(_python(options.bundle, options.child, options.threads)))
        return
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        _save_table(table, options.rows)
        for _ in range(options.rounds):
            for name in PROGRAMS:
                results[name].append(_run(name, options, table))
    for name, runs in results.items():
        print(_line(name, runs, results[PYTHON]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _save_table(path: Path, rows: int) -> None:
    from minit2i_deploy.solvers.table import solver_table

    solver_table("euler", steps=rows).save(path)


def _run(name: str, options: argparse.Namespace, table: Path) -> dict[str, Any]:
    threads = str(options.threads)
    if name == PYTHON:
        command = [sys.executable, __file__, str(options.bundle), "--child", str(table)]
        command += ["--threads", threads]
    else:
        script = str(WEB / "testing" / "step.mjs")
        command = [str(NODE), script, name, str(options.bundle), str(table), threads]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _python(folder: Path, table: Path, threads: int) -> dict[str, Any]:
    import resource

    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.generate import trajectory
    from minit2i_deploy.runtimes import open_runtime
    from minit2i_deploy.solvers.table import Table

    start = time.perf_counter()
    bundle = Bundle.open(folder)
    solver = Table.load(table)
    with open_runtime(bundle, "onnxruntime", threads=threads, lean=True) as runtime:
        opened = time.perf_counter()
        frames = trajectory(bundle, runtime, "a red circle", table=solver, guidance=2.5)
        times = [time.perf_counter() for _ in frames]
    return {
        "open_s": opened - start,
        "first_s": times[0] - opened,
        "rows_s": [after - before for before, after in itertools.pairwise(times)],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _line(name: str, runs: list[dict[str, Any]], reference: list[dict[str, Any]]) -> str:
    steps = [statistics.median(run["rows_s"]) for run in runs]
    base = [statistics.median(run["rows_s"]) for run in reference]
    ratios = sorted(step / other for step, other in zip(steps, base, strict=True))
    first = statistics.median(run["open_s"] + run["first_s"] for run in runs)
    peak = max(run["peak_bytes"] for run in runs)
    return (
        f"{name:17} step {statistics.median(steps):7.3f} s, ratio to Python "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"to the first row {first:.2f} s, peak {peak / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
