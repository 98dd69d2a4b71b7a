"""From the start of `minit2i generate` to its first row: this checkout and an older one, in turns.

    python benchmarks/start_up.py BUNDLE --old CHECKOUT
    python benchmarks/start_up.py BUNDLE --old CHECKOUT --client build/minit2i-generate \\
        --old-client OLD/minit2i-generate

Every run is a process of its own (A B A B), on files that are in the page cache. The Python runs
end where the first row starts, and so does their peak memory. The C++ programs report nothing on
the way, so theirs is an image of one row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.machine import describe_machine, machine_line

PROMPT: Final = "two blue squares to the left of a small green triangle"
# Runs the command, and notes when a trajectory begins; that method is the same in every version.
_CHILD: Final = """
import json, os, sys, time
from minit2i_deploy.cli import main
from minit2i_deploy.runtimes import base

begin = base.BaseRuntime.start

def start(*arguments, **named):
    begin(*arguments, **named)
    wall, cpu = time.time() - float(sys.argv[1]), time.process_time()
    status = open("/proc/self/status").read().split()
    peak = int(status[status.index("VmHWM:") + 1]) * 1024
    print(json.dumps({"first_row_s": wall, "peak_bytes": peak, "cpu_s": cpu}), flush=True)
    os._exit(0)

base.BaseRuntime.start = start
main(sys.argv[2:])
sys.exit("no row was started")
"""

Measure = Callable[[], dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    here = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="minit2i-start-") as folder:
        image = Path(folder, "image.png")
        table = ["table", "--solver", "euler", "--steps", "1", "-o", str(Path(folder, "1.json"))]
        subprocess.run([sys.executable, "-m", "minit2i_deploy", *table], check=True)
        contenders: dict[str, Measure] = {
            "python, old": lambda: _python(options, options.old, image),
            "python, new": lambda: _python(options, here, image),
        }
        if options.client is not None:
            contenders["c++, old"] = lambda: _program(options, options.old_client, image)
            contenders["c++, new"] = lambda: _program(options, options.client, image)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for round_number in range(options.rounds + 1):
            for name, measure in contenders.items():
                values = measure()
                if round_number:  # the first fills the page cache
                    runs[name].append(values)
    report = {"machine": describe_machine(), "runs": runs}
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time from the start to the first row, in turns.")
    parser.add_argument("bundle", metavar="BUNDLE", help="of minit2i export")
    parser.add_argument(
        "--old", metavar="CHECKOUT", type=Path, required=True, help="checkout to compare with"
    )
    parser.add_argument("--client", metavar="FILE", type=Path, help="this minit2i-generate of C++")
    parser.add_argument("--old-client", metavar="FILE", type=Path, help="the older one")
    parser.add_argument("--runtime", default="onnxruntime", help="default: onnxruntime")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if min(options.threads, options.rounds) < 1:
        parser.error("--threads and --rounds must be at least 1")
    if (options.client is None) != (options.old_client is None):
        parser.error("--client and --old-client go together")
    return options


def _python(options: argparse.Namespace, checkout: Path, image: Path) -> dict[str, float]:
    # -P: the package of that checkout, not that of the working folder.
    command = [sys.executable, "-P", "-c", _CHILD, repr(time.time())]
    command += ["generate", options.bundle, PROMPT]
    command += ["--steps", "1", "-o", str(image), "--threads", str(options.threads)]
    command += ["--runtime", options.runtime]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def _program(options: argparse.Namespace, program: Path, image: Path) -> dict[str, float]:
    command = [str(program), options.bundle, PROMPT, "--table", str(image.with_name("1.json"))]
    command += ["-o", str(image), "--threads", str(options.threads)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"{program} failed with exit code {process.returncode}")
    wall = time.perf_counter() - began
    cpu = usage.ru_utime + usage.ru_stime
    return {"one_row_image_s": wall, "peak_bytes": usage.ru_maxrss * 1024, "cpu_s": cpu}


def _text(report: dict[str, Any]) -> str:
    lines = [machine_line(report["machine"])]
    runs = report["runs"]
    for name, values in runs.items():
        language, _, age = name.partition(", ")
        time_name = next(iter(values[0]))
        medians = {key: statistics.median(run[key] for run in values) for key in values[0]}
        line = f"{name:12} {medians[time_name]:6.2f} s {time_name.removesuffix('_s')}"
        line += f"  cpu {medians['cpu_s']:6.2f} s  peak {medians['peak_bytes'] / 1e9:.2f} GB"
        if age == "new":
            old = runs[f"{language}, old"]
            for key in (time_name, "cpu_s"):
                ratio = statistics.median(b[key] / a[key] for a, b in zip(old, values, strict=True))
                line += f"  {key} x {ratio:.2f}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
