"""From the start of `minit2i generate` to its first row: this tree and an older build, in turns.

    python benchmarks/start_up.py BUNDLE --old CHECKOUT-OR-WHEEL-OR-REVISION
    python benchmarks/start_up.py BUNDLE --old 93b2c34^ --client build/minit2i-generate \\
        --old-client OLD/minit2i-generate

Every run is a process of its own (A B A B), on files that are in the page cache. This tree runs
without and with --cache, which the first round fills; there with a prompt that is new in each
round, and with one that was encoded in the round before. The Python runs end where the first row
starts, and so does their peak memory. The C++ programs generate an image of one row; the seconds of
the row, which they report, are taken off, writing the image is not. Their peak is the image's.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.regression_builds import Build, BuildError, last_line, open_build
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.machine import describe_machine, machine_line

_ROOT: Final = Path(__file__).resolve().parents[1]
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

# Of a number of the round.
Measure = Callable[[int], dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    # The builds run in folders of their own.
    bundle = Path(options.bundle)
    options.bundle = str(bundle.resolve() if bundle.exists() else bundle)
    with tempfile.TemporaryDirectory(prefix="minit2i-start-") as folder:
        work = Path(folder)
        try:
            old = open_build(options.old, work, sys.executable)
            new = open_build(str(_ROOT), work, sys.executable)
        except BuildError as error:
            print(f"start_up.py: error: {error}", file=sys.stderr)
            return 2
        runs = _measure(options, old, new, work / "image.png")
    labels = {"old": old.label, "new": new.label}
    report = {"machine": describe_machine(), "builds": labels, "runs": runs}
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time from the start to the first row, in turns.")
    parser.add_argument("bundle", metavar="BUNDLE", help="of minit2i export")
    parser.add_argument(
        "--old", metavar="OLD", required=True, help="a checkout, a wheel or a git revision"
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


def _measure(
    options: argparse.Namespace, old: Build, new: Build, image: Path
) -> dict[str, list[dict[str, float]]]:
    """What each contender took, by its name, round by round."""
    table = ("table", "--solver", "euler", "--steps", "1", "-o", str(image.with_name("1.json")))
    _output(new, "-m", "minit2i_deploy", *table)
    cache = str(image.with_name("cache"))
    contenders: dict[str, Measure] = {
        "python, old": lambda _: _python(options, old, image),
        "python, new": lambda _: _python(options, new, image),
        "python, --cache": lambda k: _python(options, new, image, "--cache", cache, number=k),
        "python, --cache, known prompt": lambda _: _python(options, new, image, "--cache", cache),
    }
    if options.client is not None:
        client, older = options.client, options.old_client
        contenders |= {
            "c++, old": lambda _: _program(options, older, image),
            "c++, new": lambda _: _program(options, client, image),
            "c++, --cache": lambda k: _program(
                options, client, image, "--cache", cache, number=100 + k
            ),
            "c++, --cache, known prompt": lambda _: _program(
                options, client, image, "--cache", cache
            ),
        }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for round_number in range(options.rounds + 1):
        for name, measure in contenders.items():
            values = measure(round_number)
            if round_number:  # the first fills the page cache
                runs[name].append(values)
    return runs


def _prompt(number: int | None) -> str:
    """The prompt, or one with a number behind it, which no other round has."""
    return PROMPT if number is None else f"{PROMPT} {number}"


def _python(
    options: argparse.Namespace,
    build: Build,
    image: Path,
    *further: str,
    number: int | None = None,
) -> dict[str, float]:
    command = ["generate", options.bundle, _prompt(number), "--runtime", options.runtime, *further]
    command += ["--steps", "1", "-o", str(image), "--threads", str(options.threads)]
    output = _output(build, "-c", _CHILD, repr(time.time()), *command)
    values: dict[str, float] = json.loads(output.splitlines()[-1])
    return values


def _output(build: Build, *arguments: str) -> str:
    done = build.run(*arguments)
    if done.returncode:
        raise SystemExit(f"start_up.py: {build.label} failed: {last_line(done.stderr)}")
    return done.stdout


def _program(
    options: argparse.Namespace,
    program: Path,
    image: Path,
    *further: str,
    number: int | None = None,
) -> dict[str, float]:
    table = str(image.with_name("1.json"))
    command = [str(program), options.bundle, _prompt(number), "--table", table]
    command += ["-o", str(image), "--threads", str(options.threads), "--json", *further]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"{program} failed with exit code {process.returncode}")
    wall = time.perf_counter() - began
    step_s = float(json.loads(output.splitlines()[-1])["step_seconds"])
    cpu = usage.ru_utime + usage.ru_stime
    return {
        "first_row_s": wall - step_s,
        "peak_bytes": usage.ru_maxrss * 1024,
        "with_row_cpu_s": cpu,
    }


def _text(report: dict[str, Any]) -> str:
    lines = [f"{age}: {label}" for age, label in report["builds"].items()]
    lines.append(machine_line(report["machine"]))
    runs = report["runs"]
    for name, values in runs.items():
        language, _, age = name.partition(", ")
        medians = {key: statistics.median(run[key] for run in values) for key in values[0]}
        cpu = next(key for key in medians if key.endswith("cpu_s"))
        line = f"{name:30} {medians['first_row_s']:6.2f} s first_row"
        line += f"  {cpu.removesuffix('_s')} {medians[cpu]:6.2f} s"
        line += f"  peak {medians['peak_bytes'] / 1e9:.2f} GB"
        if age != "old":
            old = runs[f"{language}, old"]
            for key in ("first_row_s", cpu):
                ratio = statistics.median(b[key] / a[key] for a, b in zip(old, values, strict=True))
                line += f"  {key} x {ratio:.2f}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
