"""One guided step: our network in torch, eagerly, against the exported graph in ONNX Runtime.

    python benchmarks/guided_step.py --variant b-16 --threads 2

Both run the same step (two branches, one image) of the same random network, in turns, so that
a busy machine slows both; the ratio of the medians is what the run is for. The graph comes from
the exporter's own functions and goes to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

# Read when torch loads. Beside other work, threads that spin while they wait slow torch by a
# factor of 30 and would be all that the ratio shows.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnxruntime
import torch

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.config import VARIANTS, ModelConfig
from minit2i_deploy.export.choices import DEFAULT_OPSET
from minit2i_deploy.export.graphs.modules import canonical_name, step_signature
from minit2i_deploy.export.graphs.onnx_export import to_onnx
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.model.step import Step
from minit2i_deploy.protocol import Trajectory
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxTrajectory, open_session
from minit2i_deploy.runtimes.torch.trajectory import TorchTrajectory
from minit2i_deploy.solvers.step_inputs import StepInputs
from minit2i_deploy.solvers.table import solver_table

GUIDANCE: Final = 2.5
MIN_ROUNDS: Final = 5
_TABLE: Final = solver_table("euler", steps=100)
_ROW: Final = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Seconds of each round in the order they ran, and what was compared."""

    variant: str
    num_parameters: int
    threads: int
    opset: int
    torch_s: tuple[float, ...]
    onnxruntime_s: tuple[float, ...]
    relative_error: float
    machine: str

    @property
    def medians_s(self) -> tuple[float, float]:
        """Median of torch, median of onnxruntime."""
        return statistics.median(self.torch_s), statistics.median(self.onnxruntime_s)

    def to_json(self) -> str:
        """All fields and the derived figures."""
        first, second = self.medians_s
        derived = {"torch_median_s": first, "onnxruntime_median_s": second, "ratio": first / second}
        return json.dumps(asdict(self) | derived, indent=2)

    def to_text(self) -> str:
        """The same for people."""
        first, second = self.medians_s
        lines = [
            f"one guided step of {self.variant} ({self.num_parameters / 1e6:.1f} M parameters), "
            f"fp32, batch 1, two branches, {len(self.torch_s)} rounds in turns",
            f"  torch eager    median {first:8.4f} s   min {min(self.torch_s):8.4f}",
            f"  onnxruntime    median {second:8.4f} s   min {min(self.onnxruntime_s):8.4f}",
            f"  ratio          {first / second:.2f} (torch over onnxruntime)",
            f"  difference     {self.relative_error:.1e} relative to the largest value",
            f"  machine        {self.machine}",
        ]
        return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    with torch.no_grad(), tempfile.TemporaryDirectory(prefix="minit2i-benchmark-") as folder:
        report = measure(options, Path(folder))
    print(report.to_json() if options.json else report.to_text())
    return 0


def measure(options: argparse.Namespace, folder: Path) -> Report:
    """Export, warm both up, compare one step, then time them in turns."""
    torch.manual_seed(0)
    config = step_config(options.variant)
    net = MMJiT(config).eval()
    x, tokens = step_inputs(config, net)
    session = step_session(Step(net.denoiser).eval(), config, options, folder)
    inputs = StepInputs(image_shape=x.shape, tokens=tokens, known=None, per_image=True)
    first = TorchTrajectory(Step(net.denoiser), torch.from_numpy(x), inputs)
    second = OnnxTrajectory(session, onnxruntime, x, inputs)
    for trajectory in (first, second):
        _timed(trajectory)
    expected, actual = first.state()[0], second.state()[0]
    seconds = [(_timed(first), _timed(second)) for _ in range(options.rounds)]
    return Report(
        variant=options.variant,
        num_parameters=sum(value.numel() for value in net.parameters()),
        threads=options.threads,
        opset=options.opset,
        torch_s=tuple(pair[0] for pair in seconds),
        onnxruntime_s=tuple(pair[1] for pair in seconds),
        relative_error=float(np.abs(actual - expected).max() / np.abs(expected).max()),
        machine=machine(),
    )


def machine() -> str:
    """Processor, cores this process may use, what else ran, and the versions that did the work."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, "
    versions += f"onnxruntime {onnxruntime.__version__}"
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{_processor()}, {cores} cores, load {load:.1f} at the end, {versions}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time one guided step in torch and in ONNX Runtime, in turns."
    )
    variants = [*(name for name, config in VARIANTS.items() if config.student is None), "demo"]
    parser.add_argument("--variant", choices=variants, default="b-16", help="default: b-16")
    parser.add_argument(
        "--rounds", type=int, default=MIN_ROUNDS, help=f"at least {MIN_ROUNDS} (the default)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, help="of the exported graph")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if options.rounds < MIN_ROUNDS or options.threads < 1:
        parser.error(f"--rounds must be at least {MIN_ROUNDS} and --threads at least 1")
    return options


def step_config(variant: str) -> ModelConfig:
    """The shape of a published variant, or of the demo model."""
    if variant != "demo":
        return VARIANTS[variant]
    from minit2i_deploy.training.recipe.load import load_recipe

    return load_recipe(Path("demo")).model


def step_inputs(config: ModelConfig, net: MMJiT) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image, and the tokens of a prompt half as long as it may be and of none."""
    shape = (1, config.in_channels, config.image_size, config.image_size)
    context = torch.randn(2, config.prompt_length, config.txt_input_size)
    mask = torch.zeros(2, config.prompt_length, dtype=torch.int64)
    mask[0, : config.prompt_length // 2] = 1
    tokens = net.text_adapter(context, mask).unsqueeze(1)
    return torch.randn(shape).numpy(), tokens.numpy()


def step_session(step: Step, config: ModelConfig, options: argparse.Namespace, folder: Path) -> Any:
    """Export the step graph into a folder and open it."""
    print(f"exporting {options.variant} ...", file=sys.stderr)
    model = to_onnx(step, step_signature(config), options.opset)
    write_graph(model, step, folder, canonical_name)
    return open_session(onnxruntime, folder / GRAPH_FILE, PROVIDERS["cpu"], threads=options.threads)


def _timed(trajectory: Trajectory) -> float:
    row = _TABLE.steps(GUIDANCE)[_ROW]
    began = time.perf_counter()
    trajectory.step(row)
    return time.perf_counter() - began


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(run_script(main))
