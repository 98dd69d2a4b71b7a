"""One step of Looped-DiT by the number of its loops, beside MiniT2I's step of the same size.

    python benchmarks/loop_steps.py --size b-32 --loops 1 2 3 4

Every network has random weights, one branch and one image, and all of them run in turns, so that a
busy machine slows all alike. What counts is each one's ratio to MiniT2I's, the median over the
rounds; the range of the rounds stands beside it. They run in ONNX Runtime, or with --torch in
PyTorch, which needs no export.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import torch
from guided_step import machine

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.config import LOOPED_VARIANTS, VARIANTS, ModelConfig
from minit2i_deploy.export.choices import DEFAULT_OPSET
from minit2i_deploy.export.graphs.modules import canonical_name, step_signature
from minit2i_deploy.export.graphs.onnx_export import to_onnx
from minit2i_deploy.export.graphs.onnxruntime_heads import use_onnxruntime_heads
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph
from minit2i_deploy.export.verification.reference import step_inputs
from minit2i_deploy.flops import denoiser_flops
from minit2i_deploy.model import Denoiser, Step
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.runtimes.onnxruntime.runtime import open_session
from minit2i_deploy.solvers.row import Row

SIZES: Final = ("b-32", "b-16", "l-16")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    looped = LOOPED_VARIANTS[f"looped-{options.size}"]
    configs = {f"MiniT2I {options.size}": VARIANTS[options.size]}
    configs |= {f"Looped-DiT, {n} loops": looped.with_loops(n) for n in options.loops}
    with tempfile.TemporaryDirectory(prefix="minit2i-loops-") as folder:
        seconds = measure(configs, options, Path(folder))
    print(table(configs, seconds))
    print(machine())
    return 0


def measure(
    configs: dict[str, ModelConfig], options: argparse.Namespace, folder: Path
) -> dict[str, list[float]]:
    """Seconds of each network's step in every round."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    runs: dict[str, Callable[[], object]] = {}
    for name, config in configs.items():
        print(f"exporting {name} ...", file=sys.stderr, flush=True)
        step = Step(Denoiser(config)).eval().requires_grad_(False)
        inputs = _inputs(config)
        if options.torch:
            tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
            runs[name] = partial(step, **tensors)
        else:
            session = _session(step, config, folder / name, options.threads)
            runs[name] = partial(session.run, None, inputs)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def table(configs: dict[str, ModelConfig], seconds: dict[str, list[float]]) -> str:
    """A Markdown table."""
    base, *_ = configs
    lines = ["| network | block passes | GFLOP | ms | times MiniT2I |", "|---|---|---|---|---|"]
    for name, config in configs.items():
        pairs = zip(seconds[name], seconds[base], strict=True)
        ratios = [mine / theirs for mine, theirs in pairs]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        giga, passes = denoiser_flops(config) / 1e9, len(config.block_order())
        milliseconds = 1e3 * statistics.median(seconds[name])
        lines.append(f"| {name} | {passes} | {giga:.0f} | {milliseconds:.0f} | {ratio} |")
    return "\n".join(lines)


def _session(step: Step, config: ModelConfig, folder: Path, threads: int) -> Any:
    use_onnxruntime_heads(step)
    write_graph(to_onnx(step, step_signature(config), DEFAULT_OPSET), step, folder, canonical_name)
    return open_session(onnxruntime, folder / GRAPH_FILE, PROVIDERS["cpu"], threads=threads)


def _inputs(config: ModelConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, *config.image_shape), np.float32)
    tokens = rng.standard_normal((1, 1, config.num_text_tokens, config.hidden_size), np.float32)
    row = Row(values=np.float32([0.9, 0.1, 0, 0, 0, 0]), weights=np.ones(1, np.float32))
    return step_inputs(x, np.zeros_like(x), tokens, row)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time a step by the number of loops.")
    parser.add_argument("--size", choices=SIZES, default="b-32", help="default: b-32")
    parser.add_argument("--loops", type=int, nargs="+", default=[1, 2, 4], help="default: 1 2 4")
    parser.add_argument("--torch", action="store_true", help="run PyTorch")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_script(main))
