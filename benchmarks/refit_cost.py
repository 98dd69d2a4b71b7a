"""Processor time of other weights by `minit2i refit` against an export with them, in turns.

    python benchmarks/refit_cost.py --rounds 3

Both merge the shipped LoRA into the shipped checkpoint and compare the result with PyTorch. Each
runs in a process of its own, whose start counts.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import minit2i_deploy.demo
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.machine import describe_machine, machine_line

Words = tuple[object, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Compare refit with export.")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options = parser.parse_args(arguments)
    assets = Path(minit2i_deploy.demo.__file__).parent / "assets"
    lora = ("--lora", assets / "lora")
    with tempfile.TemporaryDirectory(prefix="minit2i-refit-") as name:
        folder = Path(name)
        bundle, out = ready_bundle("demo", folder / "cache"), folder / "out"
        refit: Words = ("refit", bundle, *lora, "-o", out, "--engine", "onnxruntime")
        encoder = ("--text-encoder", assets / "text_encoder")
        export: Words = ("export", assets / "model", out, *lora, *encoder)
        rounds = [(_seconds(refit, out), _seconds(export, out)) for _ in range(options.rounds)]
    print("| | CPU, s |")
    print("|---|---|")
    for title, values in zip(("refit", "export"), zip(*rounds, strict=True), strict=True):
        print(f"| {title} | {statistics.median(values):.1f} |")
    ratios = [export_s / refit_s for refit_s, export_s in rounds]
    middle = statistics.median(ratios)
    print(f"export over refit {middle:.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    print(machine_line(describe_machine()))
    return 0


def _seconds(words: Words, out: Path) -> float:
    """Processor seconds of a command that writes ``out``, which is removed again."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "minit2i_deploy", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(out)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(run_script(main))
