"""The first half hour on a machine with an NVIDIA GPU, Python and torch, and no network.

    python benchmarks/gpu_first.py BUNDLES -o first.jsonl --budget 28
    python benchmarks/gpu_first.py BUNDLES -o try.jsonl --rehearse      # every part on the CPU

BUNDLES is a folder of stripped bundles; benchmarks/gpu_first_pack.py makes it, and packs all that
must travel. Each figure is a line of JSON in the file the moment it is there. Each part runs in a
process of its own with a time limit, so that a crash or a hang costs that part alone. Parts that
have ended in an existing file are not run again: call it as often as needed. Clocks and power are
read and never set.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.first_half_hour.figures import Context, append, read_lines
from benchmarks.first_half_hour.plan import PARTS, Task, find_part, make_plan

ROOT: Final = Path(__file__).resolve().parents[1]

# A part that cannot start and measure one thing in so many seconds is left out.
_LEAST_S: Final = 15.0
_GRACE_S: Final = 5.0
# Folder of packages beside a checkout that was unpacked, before those of the machine.
_SITE: Final = ROOT.parent / "site"

# What runs a task within so many seconds and returns its exit code and its last line.
Launch = Callable[[Task, float, argparse.Namespace], tuple[int, str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = parse(arguments)
    if options.part:
        find_part(options.part)(context_of(options, options.part, options.bundle))
        return 0
    run_plan(options)
    return 0


def run_plan(options: argparse.Namespace, launch: Launch | None = None) -> None:
    """Run every task that has not ended before, while time is left."""
    launch = launch or launch_process
    options.work.mkdir(parents=True, exist_ok=True)
    done = {line["ended"] for line in read_lines(options.output) if "ended" in line}
    deadline = time.monotonic() + 60 * options.budget
    for task in make_plan(bundle_names(options.bundles)):
        if task.name in done or (options.only and task.part not in options.only):
            continue
        seconds = min(task.limit_s, deadline - time.monotonic())
        if seconds < _LEAST_S:
            append(options.output, {"not_run": task.name, "reason": "no time left"})
            continue
        began = time.monotonic()
        code, last_line = launch(task, seconds, options)
        line: dict[str, object] = {"ended": task.name, "exit": code}
        line["seconds"] = round(time.monotonic() - began, 1)
        if code:
            line["reason"] = last_line
        append(options.output, line)
        print(
            f"{task.name}: {'done' if code == 0 else last_line} ({line['seconds']} s)", flush=True
        )


def launch_process(task: Task, seconds: float, options: argparse.Namespace) -> tuple[int, str]:
    """Run a task in a process of its own, and end that and its children at the limit."""
    command = [sys.executable, str(Path(__file__).resolve()), str(options.bundles)]
    command += ["-o", str(options.output), "--work", str(options.work), "--part", task.part]
    command += ["--bundle", task.bundle] if task.bundle else []
    command += ["--rehearse"] if options.rehearse else []
    log = options.work / f"{task.name.replace(' ', '-')}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment(), start_new_session=True
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=_GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return 124, f"ended after {seconds:.0f} s"
    lines = log.read_text(errors="replace").strip().splitlines() or [""]
    signal_name = f"{signal.Signals(-code).name} after: " if code < 0 else ""
    return code, f"{signal_name}{lines[-1][:300]}"


def environment() -> dict[str, str]:
    """Variables of a part: packages that travelled come before those of the machine."""
    paths = [str(_SITE)] if _SITE.is_dir() else []
    paths += [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_WAIT_POLICY": "PASSIVE"}


def context_of(options: argparse.Namespace, part: str, bundle: str | None) -> Context:
    """What a part gets."""
    return Context(
        part=part if bundle is None else f"{part} {bundle}",
        output=options.output,
        device="cpu" if options.rehearse else "cuda:0",
        bundle=None if bundle is None else options.bundles / bundle,
        work=options.work,
    )


def bundle_names(folder: Path) -> list[str]:
    """Names of the bundles in a folder, in alphabetic order."""
    return sorted(path.parent.name for path in folder.glob("*/manifest.json"))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description="The first half hour on an NVIDIA GPU.")
    parser.add_argument("bundles", type=Path, metavar="BUNDLES", help="folder of stripped bundles")
    parser.add_argument("-o", "--output", type=Path, default=Path("first.jsonl"), help="figures")
    parser.add_argument("--budget", type=float, default=28, help="minutes in all; default: 28")
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts alone")
    parser.add_argument("--rehearse", action="store_true", help="every part on the CPU")
    parser.add_argument("--work", type=Path, help="logs and states; default: beside the figures")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--bundle", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.bundles, options.output = options.bundles.resolve(), options.output.resolve()
    options.work = (options.work or options.output.with_suffix(".work")).resolve()
    if not options.bundles.is_dir():
        parser.error(f"{options.bundles}: no such folder; gpu_first_pack.py makes it")
    return options


if __name__ == "__main__":
    sys.exit(main())
