"""How much faster than fp32 a step of each quantization scheme is, on two blocks of a network.

    python benchmarks/block_speed.py                 # all schemes, B/16 at 512 px, two branches
    python benchmarks/block_speed.py --scheme int8-cpu --scheme int8-weights --rounds 10
    python benchmarks/block_speed.py --blocks 17 --threads 2 \
        --against fp32@openvino-bf16 --scheme int8-openvino@openvino-bf16

Two blocks of a published size with random weights are exported as ``minit2i export --for cpu`` does
and quantized by each scheme, all inputs at one scale: the time does not depend on the values. ONNX
Runtime runs all graphs in turns in one thread. Times are the processor's and not the clock's, so
that other work on the machine changes them little; the least of all rounds is taken.

OpenVINO runs what has its name behind an @, from graphs of standard operators.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnxruntime
import torch
from guided_step import machine

from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.config import VARIANTS, ModelConfig
from minit2i_deploy.errors import UsageError
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
from minit2i_deploy.runtimes.guard import Guard
from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
from minit2i_deploy.runtimes.onnxruntime.runtime import OnnxTrajectory, open_session
from minit2i_deploy.runtimes.openvino import OpenVinoTrajectory
from minit2i_deploy.runtimes.signal_stack import preserved_signal_stack
from minit2i_deploy.solvers.step_inputs import StepInputs
from minit2i_deploy.solvers.table import solver_table

SOURCE: Final = "fp32"
SCHEMES: Final = ("int8", "int8-cpu", "int8-weights", "int4-weights", "fp8")
ENGINES: Final = ("onnxruntime", "openvino-fp32", "openvino-bf16")
# What a table of the report is called -> its clock.
CLOCKS: Final = {"seconds": time.process_time, "wall_seconds": time.perf_counter}
_SCALE: Final = 4 / 127
_ROW: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A scheme, or the source, on one of ENGINES."""

    label: str
    scheme: str
    engine: str

    @classmethod
    def parse(cls, label: str) -> Contender:
        """SCHEME or SCHEME@ENGINE."""
        scheme, _, engine = label.partition("@")
        contender = cls(label=label, scheme=scheme, engine=engine or ENGINES[0])
        if scheme != SOURCE:
            find_scheme(scheme)
        if contender.engine not in ENGINES:
            raise UsageError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
        return contender

    @property
    def form(self) -> str:
        """Folder of the graphs of an engine."""
        return self.engine.partition("-")[0]

    @property
    def graph(self) -> Path:
        """The step graph in the folder of the work."""
        return Path(self.form, self.scheme, GRAPH_FILE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    config = dataclasses.replace(VARIANTS[options.variant], depth_double=options.blocks)
    contenders = [options.against, *options.scheme]
    with tempfile.TemporaryDirectory(prefix="minit2i-blocks-", dir=options.work) as name:
        folder = Path(name)
        for form in sorted({contender.form for contender in contenders}):
            _export(config, folder / form / SOURCE, form)
        for item in {(c.form, c.scheme): c for c in contenders if c.scheme != SOURCE}.values():
            _quantize(folder / item.form, item.scheme, options.include)
        times = measure(config, folder, contenders, options)
    report = {
        "machine": machine(),
        "blocks": options.blocks,
        "threads": options.threads,
        **times,
    }
    print(json.dumps(report, indent=2) if options.json else text(report))
    return 0


def measure(
    config: ModelConfig, folder: Path, contenders: Sequence[Contender], options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Seconds of a guided step in each round, graph by graph in turns: CLOCKS' names to tables."""
    trajectories = {
        item.label: _start(config, folder / item.graph, item.engine, options.threads)
        for item in contenders
    }
    row = solver_table("euler", steps=2 * _ROW).steps(2.5)[_ROW]
    times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in CLOCKS}
    # The first round also allocates.
    for number in range(options.rounds + 1):
        for label, trajectory in trajectories.items():
            began = [clock() for clock in CLOCKS.values()]
            trajectory.step(row)
            for (name, clock), start in zip(CLOCKS.items(), began, strict=True):
                if number:
                    times[name][label].append(clock() - start)
    return {name: dict(table) for name, table in times.items()}


def text(report: dict[str, Any]) -> str:
    """Least time of each graph, and the median share of the first one's, on both clocks."""
    first, rounds = next(iter(report["seconds"].items()))
    lines = []
    for label, values in report["seconds"].items():
        least, share = _least_and_share(report["seconds"], label, first)
        wall, wall_share = _least_and_share(report["wall_seconds"], label, first)
        faster = min(rounds) / min(values)
        lines.append(
            f"{label:30} {least:7.3f} s   {faster:.2f} {share:.3f}"
            f"   {wall:7.3f} s   {wall_share:.3f}"
        )
    head = (
        f"{report['blocks']} blocks, threads: {report['threads']}, {len(rounds)} rounds; processor"
        f" time: least, times as fast as {first}, median share of it; wall time: least, share"
    )
    return "\n".join([head, *lines, report["machine"]])


def _least_and_share(table: dict[str, list[float]], label: str, first: str) -> tuple[float, float]:
    pairs = zip(table[label], table[first], strict=True)
    return min(table[label]), statistics.median(a / b for a, b in pairs)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Speed of quantized blocks on this processor.")
    variants = [name for name, config in VARIANTS.items() if config.student is None]
    parser.add_argument("--variant", choices=variants, default="b-16", help="default: b-16")
    parser.add_argument("--blocks", type=int, default=2, help="default: 2")
    parser.add_argument("--scheme", metavar="NAME[@ENGINE]", action="append",
                        help=f"engines: {', '.join(ENGINES)} (default: all schemes on the first)",
                        type=_contender)  # fmt: skip
    parser.add_argument("--against", metavar="NAME[@ENGINE]", default=SOURCE, type=_contender,
                        help="what the others are compared to; default: fp32")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of each engine; default: 1")
    parser.add_argument("--include", metavar="PATTERN", action="append", default=[],
                        help="layers to quantize although the scheme excludes them")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=6, help="default: 6")
    parser.add_argument("--work", type=Path, help="folder for temporary files (0.5 GB for b-16)")
    parser.add_argument("--json", action="store_true", help="print all times as JSON")
    options = parser.parse_args(arguments)
    if min(options.blocks, options.rounds, options.threads) < 1:
        parser.error("--blocks, --rounds and --threads must be at least 1")
    options.scheme = options.scheme or [Contender.parse(name) for name in SCHEMES]
    return options


def _contender(label: str) -> Contender:
    try:
        return Contender.parse(label)
    except UsageError as error:
        # Of other errors argparse shows no text.
        raise argparse.ArgumentTypeError(str(error)) from error


def _export(config: ModelConfig, folder: Path, form: str) -> None:
    choice = choose("cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        net = MMJiT(config).eval()
        if form == ENGINES[0]:
            use_onnxruntime_heads(net)
        step = Step(net.denoiser).eval()
        model = to_onnx(step, step_signature(config), choice.opset)
        write_graph(model, step, folder, canonical_name)


def _quantize(folder: Path, name: str, include: Sequence[str]) -> None:
    step = QuantizableGraph.read(folder / SOURCE / GRAPH_FILE)
    included = match_any(step.linears, include)
    scheme = find_scheme(name).including(included, [layer.name for layer in step.linears])
    excluded = match_any(step.linears, scheme.transformer.exclude) - included
    scales = dict.fromkeys((site.name for site in step.sites), _SCALE)
    graph = quantize_graph(step, scheme.transformer, scales, exclude=excluded)
    write_quantized(graph, folder / name)


def _start(
    config: ModelConfig, graph: Path, engine: str, threads: int
) -> OnnxTrajectory | OpenVinoTrajectory:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, *config.image_shape), dtype=np.float32)
    size = (2, 1, config.num_text_tokens, config.hidden_size)
    tokens = rng.standard_normal(size, dtype=np.float32)
    inputs = StepInputs(image_shape=x.shape, tokens=tokens, known=None, per_image=True)
    if engine == ENGINES[0]:
        session = open_session(onnxruntime, graph, PROVIDERS["cpu"], threads=threads)
        return OnnxTrajectory(session, onnxruntime, x, inputs)
    import openvino

    hint = "f32" if engine.endswith("fp32") else "bf16"
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": str(threads)}
    with preserved_signal_stack():
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
    request = compiled.create_infer_request()
    return OpenVinoTrajectory(request, openvino.Tensor, x, inputs, Guard("openvino", compiled))


if __name__ == "__main__":
    sys.exit(run_script(main))
