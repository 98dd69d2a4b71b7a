"""onnxruntime on a CUDA machine, in one command: step, images, host copies, attention, graphs.

    python benchmarks/gpu_onnxruntime.py BUNDLE --student STUDENT --json > gpu.json
    python benchmarks/gpu_onnxruntime.py BUNDLE --provider cpu --rounds 2      # tries the script

BUNDLE is of `minit2i export --for cuda`. Engines take turns (A B A B): onnxruntime with CUDA graphs
and without, and the torch runtime on the same device, eager and compiled. The exit code is 1 where
attention does not run in flash kernels, or a step copies more than a row and its weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import onnxruntime

import minit2i_deploy as m
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.machine import describe_machine, machine_line
from minit2i_deploy.progress import Progress, ProgressLine, stage_of
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.table import Table, solver_table

PROMPT: Final = "two blue squares to the left of a small green triangle"
GUIDANCE: Final = 2.5
_FUSED: Final = re.compile(r"using (?:Flash Attention|cuDNN SDPA) .*total_seq=(\d+)")
_TABLE: Final = solver_table("euler", steps=100)
# A step's row and two weights.
MAX_STEP_BYTES: Final = 6 * 4 + 2 * 4
_VERBOSE: Final = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    if options.child:
        _log_one_step(options)
        return 0
    bundle = m.Bundle.open(options.bundle)
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "provider": options.provider,
        "precision": bundle.manifest.graphs["transformer"].precision,
        "attention": _attention(options, bundle),
    }
    with contextlib.ExitStack() as stack, ProgressLine("gpu") as progress:
        engines = _engines(bundle, options, stack)
        report["step"] = _steps(bundle, engines, options, progress)
        report["host"] = _host(bundle, engines["onnxruntime"], options)
        report["pictures"] = _images(bundle, engines, options, progress)
    if options.student:
        student = m.Bundle.open(options.student)
        with contextlib.ExitStack() as stack, ProgressLine("student") as progress:
            engines = _engines(student, options, stack)
            report["student"] = _images(student, engines, options, progress)
    report["passed"] = _passed(report)
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0 if report["passed"] else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="onnxruntime on a CUDA machine.")
    parser.add_argument("bundle", metavar="BUNDLE", help="of minit2i export --for cuda")
    parser.add_argument("--student", metavar="BUNDLE", help="of a few-step student")
    parser.add_argument("--provider", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--rounds", type=int, default=20, help="timed turns; default: 20")
    parser.add_argument("--burst", type=int, default=10, help="steps in each; default: 10")
    parser.add_argument("--pictures", type=int, default=5, help="images of each kind; default: 5")
    parser.add_argument(
        "--steps",
        type=int,
        action="append",
        help="Euler steps of images; default: 100 and the preset's table",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled torch")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if min(options.rounds, options.burst, options.pictures) < 1:
        parser.error("--rounds, --burst and --pictures must be at least 1")
    return options


def _engines(
    bundle: m.Bundle, options: argparse.Namespace, stack: contextlib.ExitStack
) -> dict[str, Runtime]:
    """Label to an open runtime; the first is what the others are compared with."""
    provider, gpu = options.provider, options.provider == "cuda"
    settings: dict[str, dict[str, Any]] = {}
    if gpu:
        settings["onnxruntime"] = {"provider": provider, "cuda_graph": "on"}
        settings["onnxruntime, no graph"] = {"provider": provider, "cuda_graph": "off"}
    else:
        settings["onnxruntime"] = {"provider": provider}
    settings["torch"] = {"device": "cuda:0" if gpu else "cpu"}
    if gpu and not options.no_compile:
        settings["torch, compiled"] = settings["torch"] | {"compile": True}
    return {
        label: stack.enter_context(m.open_runtime(bundle, label.partition(",")[0], **options_of))
        for label, options_of in settings.items()
    }


def _start(bundle: m.Bundle, runtime: Runtime) -> Any:
    config = bundle.config
    shape = (2, config.prompt_length, config.txt_input_size)
    context = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    mask = np.zeros(shape[:2], np.int64)
    mask[0, : config.prompt_length // 2] = 1
    x = batch_noise([0], (config.in_channels, config.image_size, config.image_size))
    return runtime.start(2 * x, runtime.adapt(context, mask)[:, None])


def _burst(state: Any, count: int) -> None:
    """So many guided steps, and the wait for the last."""
    for row in _TABLE.steps(GUIDANCE)[:count]:
        state.step(row)
    state.state()


def _steps(
    bundle: m.Bundle,
    engines: Mapping[str, Runtime],
    options: argparse.Namespace,
    progress: Progress,
) -> dict[str, Any]:
    if bundle.config.student is not None:
        raise SystemExit(f"{bundle.path}: is a student; name a base model, and it as --student")
    states = {label: _start(bundle, runtime) for label, runtime in engines.items()}
    for state in states.values():
        _burst(state, options.burst)
    results = {label: state.state()[0] for label, state in states.items()}
    calls = {
        label: (lambda state=state: _burst(state, options.burst)) for label, state in states.items()
    }
    seconds = _in_turns(calls, options.rounds, stage_of(progress, 0.0, 1.0, "step"))
    rows = _rows({label: [s / options.burst for s in spent] for label, spent in seconds.items()})
    reference = results["torch"]
    for label, state in results.items():
        off = np.abs(state - reference).max() / np.abs(reference).max()
        rows[label]["difference_to_torch"] = float(off)
    return rows


def _images(
    bundle: m.Bundle,
    engines: Mapping[str, Runtime],
    options: argparse.Namespace,
    progress: Progress,
) -> dict[str, Any]:
    """Complete images, text to bytes, on each engine in turns."""
    preset, guidance = bundle.preset()
    tables = {preset.name: preset}
    if bundle.config.student is None:
        for steps in options.steps or [100]:
            tables[f"euler-{steps}"] = solver_table("euler", steps=steps)
    results = {}
    for name, table in tables.items():
        calls = {
            label: (
                lambda runtime=runtime, table=table: _generate(bundle, runtime, table, guidance)
            )
            for label, runtime in engines.items()
        }
        for call in calls.values():
            call()

        part = stage_of(progress, 0.0, 1.0, name)
        results[name] = _rows(_in_turns(calls, options.pictures, part))
    return results


def _generate(bundle: m.Bundle, runtime: Runtime, table: Table, guidance: float) -> None:
    m.generate(bundle, runtime, PROMPT, table=table, guidance=guidance)


def _in_turns(
    calls: Mapping[str, Callable[[], None]], rounds: int, progress: Progress
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {label: [] for label in calls}
    for turn in range(rounds):
        for label, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[label].append(time.perf_counter() - began)
        progress((turn + 1) / rounds)
    return seconds


def _rows(seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    first = next(iter(seconds.values()))
    return {
        label: {
            "median_s": statistics.median(spent),
            "min_s": min(spent),
            "p95_s": float(np.percentile(spent, 95)),
            "times_first": statistics.median(a / b for a, b in zip(spent, first, strict=True)),
        }
        for label, spent in seconds.items()
    }


def _host(bundle: m.Bundle, runtime: Runtime, options: argparse.Namespace) -> dict[str, Any]:
    """Bytes that go between host and device in a step, and in the reading of the image."""
    state = _start(bundle, runtime)
    _burst(state, options.burst)
    with counted_copies() as in_steps:
        for row in _TABLE.steps(GUIDANCE)[: options.burst]:
            state.step(row)
    with counted_copies() as at_the_end:
        state.state()
    return {
        "bytes_a_step": sum(in_steps) / options.burst,
        "copies_a_step": len(in_steps) / options.burst,
        "bytes_at_the_end": sum(at_the_end),
    }


@contextlib.contextmanager
def counted_copies() -> Iterator[list[int]]:
    """Bytes of each copy between numpy and onnxruntime's memory while the block runs."""
    copies: list[int] = []
    value = onnxruntime.OrtValue
    binding = onnxruntime.IOBinding
    put, read, update = value.ortvalue_from_numpy, value.numpy, value.update_inplace
    bind = binding.bind_cpu_input

    def counted_put(array: np.ndarray, *rest: Any) -> Any:
        copies.append(array.nbytes)
        return put(array, *rest)

    def counted_read(self: Any) -> np.ndarray:
        array: np.ndarray = read(self)
        copies.append(array.nbytes)
        return array

    def counted_update(self: Any, array: np.ndarray) -> None:
        copies.append(array.nbytes)
        update(self, array)

    def counted_bind(self: Any, name: str, array: np.ndarray) -> None:
        copies.append(array.nbytes)
        bind(self, name, array)

    with (
        mock.patch.object(value, "ortvalue_from_numpy", staticmethod(counted_put)),
        mock.patch.object(value, "numpy", counted_read),
        mock.patch.object(value, "update_inplace", counted_update),
        mock.patch.object(binding, "bind_cpu_input", counted_bind),
    ):
        yield copies


def _attention(options: argparse.Namespace, bundle: m.Bundle) -> dict[str, Any]:
    """Lines of the library's log on attention in one step, from a separate process."""
    command = [sys.executable, __file__, options.bundle, "--provider", options.provider, "--child"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    lines = done.stderr.splitlines()
    if done.returncode:
        raise SystemExit(f"one logged step failed: {lines[-1] if lines else done.returncode}")
    attention = sorted(
        {line.partition("Attention: ")[2] for line in lines if "ttention: using" in line}
    )
    return {
        "blocks": bundle.config.depth_double,
        # The private operator of fp16 exports names no kernel; make test-cuda counts those.
        "flash": None if bundle.manifest.only_for else fused_blocks(lines, bundle.config),
        "memcpy_nodes": sum("MemcpyToHost" in line or "MemcpyFromHost" in line for line in lines),
        "told": attention,
        "log_lines": len(lines),
    }


def fused_blocks(lines: Sequence[str], config: ModelConfig) -> int:
    """Attentions over text and image together that the log says are flash or cuDNN's.

    The text adapter's attend to text alone, and must not stand in for two of the denoiser's.
    """
    joint = config.num_text_tokens + (config.image_size // config.patch_size) ** 2
    totals = [match.group(1) for line in lines if (match := _FUSED.search(line))]
    return totals.count(str(joint))


def _log_one_step(options: argparse.Namespace) -> None:
    onnxruntime.set_default_logger_severity(_VERBOSE)
    onnxruntime.set_default_logger_verbosity(1)
    bundle = m.Bundle.open(options.bundle)
    settings = {"provider": options.provider, "cuda_graph": "off"}
    with m.open_runtime(bundle, "onnxruntime", **settings) as runtime:
        _burst(_start(bundle, runtime), 1)


def _passed(report: Mapping[str, Any]) -> bool:
    """On a GPU: 16-bit attention of every block in flash kernels, and no state moved."""
    if report["provider"] == "cpu":
        return True
    half = report["precision"] in ("fp16", "bf16")
    count, blocks = report["attention"]["flash"], report["attention"]["blocks"]
    flash = not half or count is None or count >= blocks
    return flash and report["host"]["bytes_a_step"] <= MAX_STEP_BYTES


def _text(report: Mapping[str, Any]) -> str:
    from minit2i_deploy.cli.support.formatting import columns

    attention, host = report["attention"], report["host"]
    flash = "not logged," if attention["flash"] is None else attention["flash"]
    lines = [
        machine_line(report["machine"]),
        f"provider {report['provider']}, {report['precision']}; attention: {flash} "
        f"flash of {attention['blocks']} blocks, {attention['memcpy_nodes']} copies in the graph",
        f"host: {host['bytes_a_step']:.0f} bytes in {host['copies_a_step']:.0f} copies a step, "
        f"{host['bytes_at_the_end'] / 1e6:.1f} MB at the end",
    ]
    tables = {"one guided step": report["step"]} | report["pictures"] | report.get("student", {})
    head = ("", "median ms", "min ms", "p95 ms", "x first")
    for name, rows in tables.items():
        cells = [
            (
                label,
                *(f"{row[k] * 1e3:.2f}" for k in ("median_s", "min_s", "p95_s")),
                f"{row['times_first']:.2f}",
            )
            for label, row in rows.items()
        ]
        lines.append(f"\n{name}\n{columns(cells, head=head)}")
    lines.append("passed" if report["passed"] else "NOT passed")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_script(main))
