"""A step of one branch against a guided step of two, which one-pass guidance replaces.

    python benchmarks/one_pass_step.py --variant demo
    python benchmarks/one_pass_step.py --variant b-16

Both run the same exported graph of the same random network in ONNX Runtime, in turns, so that a
busy machine slows both; the ratio of the medians is what the run is for. An adapter is part of the
weights, so the time is that of any weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

# Read when torch loads, which exports the graph.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import onnxruntime
import torch
from guided_step import GUIDANCE, machine, step_config, step_inputs, step_session

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.export.choices import DEFAULT_OPSET
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.model.step import Step
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxTrajectory
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.step_inputs import StepInputs
from minit2i_deploy.solvers.table import solver_table

MIN_ROUNDS: Final = 5
_TABLE: Final = solver_table("ab2", steps=16)
_ROW: Final = 8


def measure(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of each round: two branches, and one."""
    torch.manual_seed(0)
    config = step_config(options.variant)
    net = MMJiT(config).eval()
    x, tokens = step_inputs(config, net)
    session = step_session(Step(net.denoiser).eval(), config, options, folder)
    ways: dict[str, tuple[OnnxTrajectory, Row]] = {}
    for name, branches, guidance in (("two_branches_s", 2, GUIDANCE), ("one_branch_s", 1, 1.0)):
        inputs = StepInputs(
            image_shape=x.shape, tokens=tokens[:branches], known=None, per_image=True
        )
        trajectory = OnnxTrajectory(session, onnxruntime, x, inputs)
        ways[name] = trajectory, _TABLE.steps(guidance)[_ROW]
        trajectory.step(ways[name][1])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, (trajectory, row) in ways.items():
            began = time.perf_counter()
            trajectory.step(row)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="minit2i-benchmark-") as folder:
        seconds = measure(options, Path(folder))
    two, one = (statistics.median(values) for values in seconds.values())
    if options.json:
        print(json.dumps({**seconds, "ratio": one / two, "machine": machine()}, indent=2))
        return 0
    print(f"one step of {options.variant}, fp32, batch 1, {options.rounds} rounds in turns")
    print(f"  two branches   median {two:8.4f} s")
    print(f"  one branch     median {one:8.4f} s")
    print(f"  ratio          {one / two:.2f} (one branch over two)")
    print(f"  machine        {machine()}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time a step of one branch and one of two.")
    parser.add_argument("--variant", default="demo", help="demo or a published variant")
    parser.add_argument(
        "--rounds", type=int, default=21, help=f"at least {MIN_ROUNDS} (default 21)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the engine (default 2)")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, help="of the exported graph")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < MIN_ROUNDS or options.threads < 1:
        parser.error(f"--rounds must be at least {MIN_ROUNDS} and --threads at least 1")
    return options


if __name__ == "__main__":
    sys.exit(run_script(main))
