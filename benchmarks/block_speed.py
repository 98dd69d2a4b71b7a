"""How much faster than fp32 a step of each quantization scheme is, on two blocks of a network.

    python benchmarks/block_speed.py                 # all schemes, B/16 at 512 px, two branches
    python benchmarks/block_speed.py --scheme int8-cpu --scheme int8-weights --rounds 10

Two blocks of a published size with random weights are exported as ``minit2i export --for cpu`` does
and quantized by each scheme, all inputs at one scale: the time does not depend on the values. ONNX
Runtime runs all graphs in turns in one thread. Times are the processor's and not the clock's, so
that other work on the machine changes them little; the least of all rounds is taken.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnxruntime
import torch
from guided_step import machine

from minit2i_deploy.config import VARIANTS, ModelConfig
from minit2i_deploy.export.choices import choose
from minit2i_deploy.export.graphs.modules import canonical_name, step_signature
from minit2i_deploy.export.graphs.onnx_export import to_onnx
from minit2i_deploy.export.graphs.onnxruntime_heads import use_onnxruntime_heads
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE, write_graph
from minit2i_deploy.export.quantize import (
    QuantizableGraph,
    find_scheme,
    match_any,
    quantize_graph,
)
from minit2i_deploy.export.quantize import write_graph as write_quantized
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.model.step import Step
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxTrajectory, open_session
from minit2i_deploy.solvers.step_inputs import StepInputs
from minit2i_deploy.solvers.table import solver_table

SOURCE: Final = "fp32"
SCHEMES: Final = ("int8", "int8-cpu", "int8-weights", "int4-weights", "fp8")
_SCALE: Final = 4 / 127
_ROW: Final = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    config = dataclasses.replace(VARIANTS[options.variant], depth_double=options.blocks)
    with tempfile.TemporaryDirectory(prefix="minit2i-blocks-", dir=options.work) as name:
        folder = Path(name)
        _export(config, folder / SOURCE)
        for scheme in options.scheme:
            _quantize(folder, scheme, options.include)
        seconds = measure(config, folder, (SOURCE, *options.scheme), options.rounds)
    report = {"machine": machine(), "blocks": options.blocks, "seconds": seconds}
    print(json.dumps(report, indent=2) if options.json else text(report))
    return 0


def measure(
    config: ModelConfig, folder: Path, names: Sequence[str], rounds: int
) -> dict[str, list[float]]:
    """Processor seconds of a guided step in each round, graph by graph in turns."""
    trajectories = {name: _start(config, folder / name / GRAPH_FILE) for name in names}
    row = solver_table("euler", steps=2 * _ROW).steps(2.5)[_ROW]
    seconds: dict[str, list[float]] = defaultdict(list)
    # The first round also allocates.
    for number in range(rounds + 1):
        for name, trajectory in trajectories.items():
            began = time.process_time()
            trajectory.step(row)
            if number:
                seconds[name].append(time.process_time() - began)
    return dict(seconds)


def text(report: dict[str, Any]) -> str:
    """The least time of each graph, and how many times as fast as its source that is."""
    least = {name: min(values) for name, values in report["seconds"].items()}
    lines = [
        f"{name:14} {value:7.3f} s   {least[SOURCE] / value:.2f}" for name, value in least.items()
    ]
    rounds = len(report["seconds"][SOURCE])
    head = f"{report['blocks']} blocks, one thread, least of {rounds}; times as fast as {SOURCE}"
    return "\n".join([head, *lines, report["machine"]])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of quantized blocks on this processor.")
    variants = [name for name, config in VARIANTS.items() if config.student is None]
    parser.add_argument("--variant", choices=variants, default="b-16", help="default: b-16")
    parser.add_argument("--blocks", type=int, default=2, help="default: 2")
    parser.add_argument("--scheme", choices=SCHEMES, action="append", help="default: all")
    parser.add_argument("--include", metavar="PATTERN", action="append", default=[],
                        help="layers to quantize although the scheme excludes them")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=6, help="default: 6")
    parser.add_argument("--work", type=Path, help="folder for temporary files (0.5 GB for b-16)")
    parser.add_argument("--json", action="store_true", help="print all times as JSON")
    options = parser.parse_args(arguments)
    if options.blocks < 1 or options.rounds < 1:
        parser.error("--blocks and --rounds must be at least 1")
    options.scheme = options.scheme or list(SCHEMES)
    return options


def _export(config: ModelConfig, folder: Path) -> None:
    choice = choose("cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        net = MMJiT(config).eval()
        if choice.only_for is not None:
            use_onnxruntime_heads(net)
        step = Step(net.denoiser).eval()
        model = to_onnx(step, step_signature(config), choice.opset)
        write_graph(model, step, folder, canonical_name)


def _quantize(folder: Path, name: str, include: Sequence[str]) -> None:
    step = QuantizableGraph.read(folder / SOURCE / GRAPH_FILE)
    scheme = find_scheme(name).including(include)
    excluded = match_any(step.linears, scheme.transformer.exclude)
    excluded -= match_any(step.linears, include)
    scales = dict.fromkeys((layer.site for layer in step.linears), _SCALE)
    graph = quantize_graph(step, scheme.transformer, scales, exclude=excluded)
    write_quantized(graph, folder / name)


def _start(config: ModelConfig, graph: Path) -> OnnxTrajectory:
    session = open_session(onnxruntime, graph, PROVIDERS["cpu"], threads=1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, *config.image_shape), dtype=np.float32)
    size = (2, 1, config.num_text_tokens, config.hidden_size)
    tokens = rng.standard_normal(size, dtype=np.float32)
    inputs = StepInputs(image_shape=x.shape, tokens=tokens, known=None, per_image=True)
    return OnnxTrajectory(session, onnxruntime, x, inputs)


if __name__ == "__main__":
    sys.exit(main())
