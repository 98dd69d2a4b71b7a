"""One guided step at full size: WebAssembly in Node against Python, on random weights.

    sh scripts/setup_web.sh .venv/bin/python
    python -m benchmarks.web_graph_step GRAPH --variant b-16 --scheme int8-weights --rounds 3

GRAPH is a folder; where it has no model.onnx, the step graph of a random network is exported to it
first, and quantized by a scheme of weights alone. onnxruntime-web, onnxruntime-node and Python's
onnxruntime then run it in turns, each in a process of its own, with two branches of one image.
Memory is the kernel's peak of a process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.web_step import NODE, PROGRAMS, PYTHON, WEB
from minit2i_deploy.bundle.manifest import FORMAT_VERSION
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.config import VARIANTS, ModelConfig
from minit2i_deploy.machine import describe_machine, machine_line

_GRAPH: Final = "model.onnx"
_EXPORT: Final = "export"


def main() -> None:
    """Print a line for each program."""
    options = _arguments()
    config = VARIANTS[options.variant]
    if options.child == _EXPORT:
        _export(config, options.graph, options.scheme)
        return
    if options.child == PYTHON:
        print(json.dumps(_python(config, options)))
        return
    if not (options.graph / _GRAPH).is_file():
        # In a process of its own, so that torch's memory is free again.
        subprocess.run([*_child(options), _EXPORT], check=True)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    for _ in range(options.rounds):
        for name in PROGRAMS:
            runs[name].append(_run(name, config, options))
    print(machine_line(describe_machine()))
    num_bytes = sum(path.stat().st_size for path in options.graph.iterdir())
    print(f"{options.variant} {options.scheme or 'fp32'}: {num_bytes / 1e6:.0f} MB of files")
    for name in PROGRAMS:
        print(_line(name, runs[name], runs[PYTHON]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("graph", metavar="GRAPH", type=Path)
    parser.add_argument("--variant", choices=tuple(VARIANTS), default="b-16")
    parser.add_argument("--scheme", choices=("int8-weights", "int4-weights"), help="default: fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="in each process (default 2)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def _child(options: argparse.Namespace) -> list[str]:
    values = {"--variant": options.variant, "--steps": options.steps, "--threads": options.threads}
    if options.scheme is not None:
        values["--scheme"] = options.scheme
    flags = [str(item) for pair in values.items() for item in pair]
    return [
        sys.executable,
        "-m",
        "benchmarks.web_graph_step",
        str(options.graph),
        *flags,
        "--child",
    ]


def _run(name: str, config: ModelConfig, options: argparse.Namespace) -> dict[str, Any]:
    if name == PYTHON:
        command = [*_child(options), PYTHON]
    else:
        sizes = (FORMAT_VERSION, config.image_size, config.num_text_tokens, config.hidden_size)
        script = str(WEB / "testing" / "graph_step.mjs")
        command = [str(NODE), script, name, str(options.graph.resolve())]
        command += [str(value) for value in (*sizes, options.threads, options.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _python(config: ModelConfig, options: argparse.Namespace) -> dict[str, Any]:
    import resource

    import onnxruntime

    from minit2i_deploy.runtimes.onnxruntime.providers import PROVIDERS
    from minit2i_deploy.runtimes.onnxruntime.runtime import open_session

    start = time.perf_counter()
    graph = options.graph / _GRAPH
    session = open_session(onnxruntime, graph, PROVIDERS["cpu"], threads=options.threads)
    inputs = {
        item.name: _input(item.name, len(item.shape), config) for item in session.get_inputs()
    }
    times = [time.perf_counter()]
    for _ in range(options.steps):
        session.run(None, inputs)
        times.append(time.perf_counter())
    return {
        "open_s": times[0] - start,
        "rows_s": np.diff(times).tolist(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _input(name: str, rank: int, config: ModelConfig) -> np.ndarray:
    """An input of the step graph of either format version: two branches of one image."""
    image = (1, *config.image_shape)
    tokens = (2, 1, config.num_text_tokens, config.hidden_size)
    random = np.random.default_rng(0)
    if name in ("x", "tokens"):
        shape = image if name == "x" else tokens if rank == 4 else (2, *tokens[2:])
        return random.standard_normal(shape, dtype=np.float32)
    each = {
        "weights": np.array([2.5, -1.5], np.float32),
        "row": np.array([0.5, 0.5, 0, 0, 0, 0], np.float32),
    }
    if name in each:
        return (
            each[name] if rank == 1 else each[name].reshape((2, 1) if name == "weights" else (1, 6))
        )
    others = {
        "image": np.zeros(2, np.int64),
        "sequence": np.array([[0], [1]], np.int64),
        "known_mask": np.zeros((1, 1, *image[2:]), np.float32),
    }
    return others.get(name, np.zeros(image, np.float32))


def _export(config: ModelConfig, folder: Path, scheme: str | None) -> None:
    if scheme is None:
        _export_fp32(config, folder)
        return
    from minit2i_deploy.export.quantize.graph.linear_layers import match_any
    from minit2i_deploy.export.quantize.graph.model_graph import write_graph
    from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
    from minit2i_deploy.export.quantize.graph.rewrite import quantize_graph
    from minit2i_deploy.export.quantize.schemes import find_scheme

    form = find_scheme(scheme).transformer
    with tempfile.TemporaryDirectory(dir=folder.parent) as source:
        _export_fp32(config, Path(source))
        step = QuantizableGraph.read(Path(source) / _GRAPH)
        folder.mkdir(exist_ok=True)
        excluded = match_any(step.linears, form.exclude)
        write_graph(quantize_graph(step, form, {}, exclude=excluded), folder)


def _export_fp32(config: ModelConfig, folder: Path) -> None:
    import torch

    from minit2i_deploy.export.choices import DEFAULT_OPSET
    from minit2i_deploy.export.graphs.modules import canonical_name, step_signature
    from minit2i_deploy.export.graphs.onnx_export import to_onnx
    from minit2i_deploy.export.graphs.weights_file import write_graph
    from minit2i_deploy.model.mmjit import MMJiT
    from minit2i_deploy.model.step import Step

    torch.manual_seed(0)
    with torch.no_grad():
        step = Step(MMJiT(config).eval().denoiser).eval()
        model = to_onnx(step, step_signature(config), DEFAULT_OPSET)
        write_graph(model, step, folder, canonical_name)


def _line(name: str, runs: list[dict[str, Any]], reference: list[dict[str, Any]]) -> str:
    # The first step of a process also allocates.
    steps, base = ([min(run["rows_s"]) for run in one] for one in (runs, reference))
    ratios = sorted(step / other for step, other in zip(steps, base, strict=True))
    open_s = statistics.median(run["open_s"] for run in runs)
    peak = max(run["peak_bytes"] for run in runs)
    return (
        f"{name:17} step {statistics.median(steps):7.2f} s, ratio to Python "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"open {open_s:.1f} s, peak {peak / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    sys.exit(run_script(main))
