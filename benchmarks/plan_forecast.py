"""Forecasts of `minit2i plan` against the jobs themselves, forecast and job in turns.

    python benchmarks/plan_forecast.py --rounds 3

Each forecast is made right before its job, in a process of its own as the job is, so that a busy
machine slows both. What is compared is the time until the last shard ends, for one shard, and the
bytes on disk. A forecast has no start of Python in it, so the start of a process that does nothing
is subtracted from the job's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.evaluation.bench.stages import short_texts
from minit2i_deploy.machine import describe_machine, machine_line

Words = tuple[object, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    print("| job | forecast, s | job, s | job over forecast | bytes over forecast |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="minit2i-plan-") as name:
        folder = Path(name)
        for job, plan, work, output in _jobs(options, folder):
            rounds = [_round(plan, work, output, folder / str(n)) for n in range(options.rounds)]
            print(f"| {job} | {_row(rounds)} |", flush=True)
    print(machine_line(describe_machine()))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare forecasts with the jobs themselves.")
    parser.add_argument("--bundle", default="demo", help="default: demo")
    parser.add_argument("--texts", type=int, default=50_000, help="default: 50000")
    parser.add_argument("--images", type=int, default=64, help="default: 64")
    parser.add_argument("--preset", default="fast", help="default: fast")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    return parser.parse_args(arguments)


def _jobs(options: argparse.Namespace, folder: Path) -> list[tuple[str, Words, Words, str]]:
    """Name, forecast, job without its output, and suffix of the output."""
    texts, prompts = folder / "texts.txt", folder / "prompts.txt"
    texts.write_text("".join(f"{text}\n" for text in short_texts(options.texts)))
    prompts.write_text("".join(f"{text}\n" for text in short_texts(options.images)))
    bundle, preset = options.bundle, ("--preset", options.preset)
    embed: Words = ("embed", bundle, "--pooled-only", "--input", texts)
    paint: Words = ("paint", bundle, "--images", options.images, *preset)
    suite: Words = ("eval", "paint", "folder", bundle, "--prompts", prompts, *preset)
    return [
        (f"{options.texts} texts", ("plan", *embed, "--texts", options.texts), embed, ".npz"),
        (f"{options.images} images, {options.preset}", ("plan", *paint), suite, ""),
    ]


def _round(plan: Words, work: Words, suffix: str, folder: Path) -> dict[str, float]:
    output = folder.with_name(f"{folder.name}-out{suffix}")
    began = time.perf_counter()
    _run(("--version",))
    start_s = time.perf_counter() - began
    values = json.loads(_run((*plan, "--json")))
    began = time.perf_counter()
    _run((*work, "-o", output, "--shard", "0/1"))
    job_s = time.perf_counter() - began - start_s
    data = output if output.is_dir() else output.with_name(f"{output.name}.shards")
    files = [path for path in data.rglob("*") if path.is_file() and "_" not in path.parts[-2]]
    num_bytes = sum(path.stat().st_size for path in files)
    return {
        "forecast_s": values["runs"][0]["wall_s"],
        "job_s": job_s,
        "bytes": num_bytes / values["disk_bytes"],
    }


def _run(words: Words) -> Any:
    command = [sys.executable, "-m", "minit2i_deploy", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return done.stdout


def _row(rounds: Sequence[dict[str, float]]) -> str:
    ratios = [each["job_s"] / each["forecast_s"] for each in rounds]
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    times = f"{middle['forecast_s']:.1f} | {middle['job_s']:.1f}"
    return f"{times} | {ratio} | {middle['bytes']:.2f}"


if __name__ == "__main__":
    sys.exit(run_script(main))
