"""What the inputs for edits cost where nothing is edited: steps of format 1 and 2 in turns.

    python benchmarks/edit_cost.py --rounds 200

Both graphs are exported from the shipped model, and run the same guided step of the same state in
ONNX Runtime. Their order changes in every pair, so that other work slows both alike; the median of
the pairs' ratios is what the run is for.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from guided_step import machine
from torch import Tensor, nn

from minit2i_deploy.bundle.manifest import TensorInfo
from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.demo.ready import shipped_checkpoint
from minit2i_deploy.export.choices import DEFAULT_OPSET
from minit2i_deploy.export.graphs.modules import canonical_name, step_signature
from minit2i_deploy.export.graphs.onnx_export import Signature, to_onnx
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph
from minit2i_deploy.model import build_network
from minit2i_deploy.model.mmjit import Denoiser
from minit2i_deploy.model.step import Step, guided_estimate
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxTrajectory, open_session
from minit2i_deploy.solvers.step_inputs import StepInputs
from minit2i_deploy.solvers.table import solver_table

MIN_ROUNDS: Final = 5
_TABLE: Final = solver_table("euler", steps=20)
_GUIDANCE: Final = 2.5
_ROW: Final = 10
_RESAMPLES: Final = 2000


class SharedRow(nn.Module):
    """The step of format 1: x, h, tokens, weights, row -> x', h', one row for all images."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, x: Tensor, h: Tensor, tokens: Tensor, weights: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """tokens [branches, batch, L, D], weights [branches], row [6]."""
        branches, batch, length, width = tokens.shape
        images = x.unsqueeze(0).expand(branches, -1, -1, -1, -1)
        x0 = self.denoiser(
            images.reshape(branches * batch, *x.shape[1:]),
            tokens.reshape(branches * batch, length, width),
        )
        a, b, c, s, clip, rescale = row[:, None, None, None, None].unbind(0)
        x0 = x0.reshape(branches, batch, *x.shape[1:])
        y = guided_estimate(x0, weights[:, None], clip, rescale)
        return a * x + b * y + c * h, y + s * x


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Format 2 over format 1.

    Args:
        batch: images of a step.
        rounds: pairs of steps.
        first_ms: median of format 1.
        second_ms: median of format 2.
        ratio: median of the pairs' ratios.
        interval_95: of the ratio, by bootstrap.
        difference: largest of the states after a step.
        machine: that ran them.
    """

    batch: int
    rounds: int
    first_ms: float
    second_ms: float
    ratio: float
    interval_95: tuple[float, float]
    difference: float
    machine: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="minit2i-benchmark-") as folder:
        costs = measure(options, Path(folder))
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=2))
        return 0
    for cost in costs:
        low, high = cost.interval_95
        print(
            f"batch {cost.batch}: format 1 {cost.first_ms:.3f} ms, format 2 {cost.second_ms:.3f} "
            f"ms, ratio {cost.ratio:.4f} (95% {low:.4f} to {high:.4f}), {cost.rounds} pairs, "
            f"difference {cost.difference:.1e}"
        )
    print(costs[0].machine)
    return 0


def measure(options: argparse.Namespace, folder: Path) -> list[Cost]:
    """Export both graphs, then time them at every batch."""
    net = build_network(load_checkpoint(shipped_checkpoint("demo"))).eval()
    sessions = [
        _session(step.eval(), signature, folder / name, options.threads)
        for name, step, signature in (
            ("first", SharedRow(net.denoiser), first_signature(net.config)),
            ("second", Step(net.denoiser), step_signature(net.config)),
        )
    ]
    return [_cost(sessions, net.config, batch, options.rounds) for batch in options.batches]


def first_signature(config: ModelConfig) -> Signature:
    """Inputs and outputs of the step graph of format 1."""
    image = TensorInfo(dtype="float32", shape=("batch", *config.image_shape))
    tokens = ("branches", "batch", config.num_text_tokens, config.hidden_size)
    return Signature(
        inputs={
            "x": image,
            "h": image,
            "tokens": TensorInfo(dtype="float32", shape=tokens),
            "weights": TensorInfo(dtype="float32", shape=("branches",)),
            "row": TensorInfo(dtype="float32", shape=(6,)),
        },
        outputs={"x_next": image, "h_next": image},
    )


def _cost(sessions: Sequence[Any], config: ModelConfig, batch: int, rounds: int) -> Cost:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *config.image_shape), dtype=np.float32)
    tokens = rng.standard_normal(
        (2, batch, config.num_text_tokens, config.hidden_size), dtype=np.float32
    )
    steps: list[Callable[[], float]] = []
    states = []
    for session, per_image in zip(sessions, (False, True), strict=True):
        inputs = StepInputs(image_shape=x.shape, tokens=tokens, known=None, per_image=per_image)
        trajectory = OnnxTrajectory(session, onnxruntime, x, inputs)
        _step_s(trajectory)
        states.append(trajectory.state()[0])
        steps.append(lambda trajectory=trajectory: _step_s(trajectory))  # type: ignore[misc]
    pairs = np.array([_pair(steps, swapped=index % 2 == 1) for index in range(rounds)])
    ratios = pairs[:, 1] / pairs[:, 0]
    draws = np.median(rng.choice(ratios, (_RESAMPLES, rounds)), axis=1)
    low, high = (float(value) for value in np.quantile(draws, (0.025, 0.975)))
    first, second = (float(value) for value in 1e3 * np.median(pairs, axis=0))
    return Cost(
        batch=batch,
        rounds=rounds,
        first_ms=first,
        second_ms=second,
        ratio=float(np.median(ratios)),
        interval_95=(low, high),
        difference=float(np.abs(states[0] - states[1]).max()),
        machine=machine(),
    )


def _pair(steps: Sequence[Callable[[], float]], *, swapped: bool) -> tuple[float, float]:
    if swapped:
        second = steps[1]()
        return steps[0](), second
    return steps[0](), steps[1]()


def _step_s(trajectory: OnnxTrajectory) -> float:
    row = _TABLE.steps(_GUIDANCE)[_ROW]
    # Of this process, so that other work on the machine counts less.
    began = time.process_time()
    trajectory.step(row)
    return time.process_time() - began


def _session(step: nn.Module, signature: Signature, folder: Path, threads: int) -> Any:
    folder.mkdir()
    write_graph(to_onnx(step, signature, DEFAULT_OPSET), step, folder, canonical_name)
    return open_session(onnxruntime, folder / GRAPH_FILE, PROVIDERS["cpu"], threads=threads)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Steps of format 1 and 2, in turns.")
    parser.add_argument("--rounds", type=int, default=200, help="pairs (default 200)")
    parser.add_argument(
        "--batches",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        default=(1, 8),
        help="images of a step, comma-separated (default 1,8)",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.rounds < MIN_ROUNDS or options.threads < 1 or min(options.batches) < 1:
        parser.error(f"--rounds must be at least {MIN_ROUNDS}, --threads and batches at least 1")
    return options


if __name__ == "__main__":
    sys.exit(run_script(main))
