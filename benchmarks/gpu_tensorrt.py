"""Every engine of a CUDA machine in one run: build, verify, then time them in turns.

    python benchmarks/gpu_tensorrt.py --variant b-16 -o b16.json
    python benchmarks/gpu_tensorrt.py --variant b-16 --official CHECKOUT --student -o b16.json
    python benchmarks/gpu_tensorrt.py --dry-run -o try.json            # no GPU, a tiny network

Weights are random. Engines are built for the GPU, their answers are compared with PyTorch in
float32 and with the golden states of the official code, and what cannot run here is named with
the reason while the rest is measured. CHECKOUT is a clone of the official PyTorch port. Clocks and
power are read and never set.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from gpu_contenders import CONFIGS, Contender, make_bundle, official_contender, open_contender
from gpu_report import read_card, summary, text

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.export.tensorrt import BuildOptions, build_bundle
from minit2i_deploy.flops import denoiser_flops
from minit2i_deploy.generate import generate
from minit2i_deploy.io.files import atomic_write_text
from minit2i_deploy.machine import describe_machine
from minit2i_deploy.progress import Progress, ProgressLine
from minit2i_deploy.protocol import RowsTrajectory
from minit2i_deploy.runtimes.step_probe import answers, graph_errors, make_probe
from minit2i_deploy.solvers.noise import batch_noise
from minit2i_deploy.solvers.row import Row
from minit2i_deploy.solvers.table import solver_table

GOLDEN: Final = Path(__file__).resolve().parent.parent / "tests" / "golden" / "public"
PROMPT: Final = "two blue squares to the left of a small green triangle"
GUIDANCE: Final = 2.5
_ROWS: Final = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    torch.set_num_threads(options.threads)
    with _work_folder(options.work) as folder, ProgressLine("gpu") as progress:
        report = measure(options, folder, progress)
    if options.output is not None:
        atomic_write_text(options.output, json.dumps(report, indent=2) + "\n")
    print(text(report))
    return 0


def measure(options: argparse.Namespace, folder: Path, progress: Progress) -> dict[str, Any]:
    """Everything, in the order of the module's first line."""
    progress(0.0, "export")
    bundle = make_bundle(options.variant, options.precision, folder, opset=options.opset)
    card_before = read_card()
    contenders = open_all(bundle, options)
    progress(0.3, "verify")
    errors = verify(bundle, contenders, options)
    running = [each for each in contenders if not each.reason]
    progress(0.4, "steps")
    steps = time_steps(bundle, running, options)
    progress(0.7, "pictures")
    images = time_images(bundle, running, options, options.presets)
    copies = count_copies(bundle, running)
    _close(contenders)
    if options.student:
        progress(0.9, "student")
        images |= student_images(folder, options)
    return {
        "machine": describe_machine(),
        "card_before": card_before,
        "card_after": read_card(),
        "variant": options.variant,
        "precision": options.precision,
        "guidance": GUIDANCE,
        "step_flops": 2 * denoiser_flops(bundle.config),
        "not_run": {each.label: each.reason for each in contenders if each.reason},
        "facts": {each.label: each.facts for each in running},
        "errors": errors,
        "step_s": steps,
        "picture_s": images,
        "host_copies_a_picture": copies,
    }


def open_all(bundle: Bundle, options: argparse.Namespace) -> list[Contender]:
    """Every engine that was asked for; engines of TensorRT are built first."""
    device, cpu = options.device, options.device == "cpu"
    contenders = [open_contender("torch eager", bundle, "torch", device=device)]
    if options.compile:
        contenders.append(
            open_contender("torch compiled", bundle, "torch", device=device, compile=True)
        )
    provider = "cpu" if cpu else "cuda"
    contenders.append(
        open_contender(f"onnxruntime {provider}", bundle, "onnxruntime", provider=provider)
    )
    for engine in options.engines:
        contenders.append(_engine_contender(bundle, engine, options))
    if options.official is not None:
        probe = make_probe(bundle, contenders[0].runtime)
        contenders.append(
            official_contender(
                bundle, options.official, device, (probe.context[:1], probe.mask[:1])
            )
        )
    return contenders


def _engine_contender(bundle: Bundle, engine: str, options: argparse.Namespace) -> Contender:
    began = time.perf_counter()
    try:
        if options.build:
            build_bundle(
                bundle,
                BuildOptions(
                    library=engine.replace("-", "_"),
                    max_batch=max(options.batches),
                    targets=_targets(engine, options),
                ),
            )
    except Minit2iError as error:
        return Contender(label=engine, reason=str(error))
    built_s = time.perf_counter() - began
    contender = open_contender(engine, bundle, engine)
    contender.facts["build_s"] = round(built_s, 1)
    return contender


def _targets(engine: str, options: argparse.Namespace) -> tuple[str, ...]:
    """TensorRT builds for the GPU that is here only, and TensorRT-RTX gets it as its target."""
    if engine == "tensorrt":
        return ()
    native = () if options.device == "cpu" else ("native",)
    return tuple(options.target) or native


def verify(
    bundle: Bundle, contenders: Sequence[Contender], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Relative errors of adapter and step to torch in fp32, and of the golden network's states.

    A contender that fails here is not timed.
    """
    trusted = open_contender("torch fp32", bundle, "torch", device=options.device, precision="fp32")
    probe = make_probe(bundle, trusted.runtime)
    expected = answers(trusted.runtime, probe)
    errors = {}
    for each in contenders:
        if each.reason or each.runtime is None:
            continue
        try:
            errors[each.label] = graph_errors(answers(each.runtime, probe), expected)
        except Minit2iError as error:
            each.reason = str(error)
    _close([trusted])
    if options.golden:
        for label, error in golden_errors(options).items():
            errors.setdefault(label, {})["golden states"] = error
    return errors


def golden_errors(options: argparse.Namespace) -> dict[str, float]:
    """Errors to states of the official code: its tiny network, exported and built here."""
    sys.path.append(str(GOLDEN.parent.parent))
    from tests.helpers.checkpoint_forms import arrays
    from tests.helpers.tiny_bundle import tiny_bundle

    folder = Path(tempfile.mkdtemp(prefix="minit2i-golden-"))
    shutil.copytree(tiny_bundle(), folder / "bundle", ignore=shutil.ignore_patterns("engines"))
    bundle = Bundle.open(folder / "bundle")
    golden = arrays("forward")
    x = np.ascontiguousarray(golden["img"].transpose(0, 3, 1, 2))[:1]
    expected = golden["out_ema"].transpose(0, 3, 1, 2)[:1]
    values = np.array([0, 1, 0, 0, 0, 0], np.float32)
    row = Row(values=values, weights=np.ones(1, np.float32))
    results = {}
    contenders = open_all(bundle, argparse.Namespace(**vars(options) | {"official": None}))
    for each in contenders:
        if each.reason:
            continue
        try:
            mask = golden["mask"][:1].astype(np.int64)
            tokens = each.runtime.adapt(golden["context"][:1], mask)[None]
            state = each.runtime.start(x, tokens)
            state.step(row)
            error = np.abs(state.state()[0] - expected).max() / np.abs(expected).max()
            results[each.label] = float(error)
        except Minit2iError as error:
            each.reason = str(error)
    _close(contenders)
    shutil.rmtree(folder, ignore_errors=True)
    return results


def time_steps(
    bundle: Bundle, contenders: Sequence[Contender], options: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    """Batch -> contender -> seconds of a guided step, from runs of several rows, in turns."""
    table = solver_table("euler", steps=_ROWS)
    rows = table.steps(GUIDANCE)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for batch in options.batches:
        calls: dict[str, Callable[[], object]] = {}
        for each in contenders:
            if each.official is not None:
                calls[each.label] = each.official(batch, _ROWS)
            else:
                calls[each.label] = _rows_call(bundle, each, batch, rows)
        seconds = _in_turns(calls, contenders, options)
        results[str(batch)] = {
            label: summary([value / _ROWS for value in values]) for label, values in seconds.items()
        }
    return results


def _rows_call(
    bundle: Bundle, each: Contender, batch: int, rows: Sequence[Row]
) -> Callable[[], object]:
    config = bundle.config
    x = batch_noise(range(batch), (config.in_channels, config.image_size, config.image_size))
    shape = (2, batch, config.num_text_tokens, config.hidden_size)
    tokens = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def call() -> object:
        state = each.runtime.start(x, tokens)
        if isinstance(state, RowsTrajectory):
            state.run_rows(rows, lambda row: None)
        else:
            for row in rows:
                state.step(row)
        return state.state()

    return call


def time_images(
    bundle: Bundle,
    contenders: Sequence[Contender],
    options: argparse.Namespace,
    presets: Sequence[str],
) -> dict[str, dict[str, dict[str, float]]]:
    """Preset -> contender -> seconds from a prompt to an image, prompt met before."""
    results = {}
    for preset in presets:
        table, guidance = bundle.preset(preset)

        def call(each: Contender, table: Any = table, guidance: float = guidance) -> object:
            if each.official is not None:
                return each.official(1, len(table))()
            return generate(bundle, each.runtime, PROMPT, table=table, guidance=guidance)

        calls = {each.label: (lambda each=each, call=call: call(each)) for each in contenders}
        seconds = _in_turns(calls, contenders, options)
        name = f"{preset} ({len(table)} rows)"
        results[name] = {label: summary(values) for label, values in seconds.items()}
    return results


def student_images(
    folder: Path, options: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    """The 4-step student on every engine."""
    variant = "tiny-mf" if options.variant == "tiny" else "b-16-mf"
    bundle = make_bundle(variant, options.precision, folder, opset=options.opset)
    plain = argparse.Namespace(**vars(options) | {"official": None})
    contenders = open_all(bundle, plain)
    running = [each for each in contenders if not each.reason]
    results = time_images(bundle, running, plain, ("reference",))
    _close(contenders)
    return {f"student, {name}": values for name, values in results.items()}


def count_copies(bundle: Bundle, contenders: Sequence[Contender]) -> dict[str, dict[str, int]]:
    """Copies between host and GPU in one warm image, of engines that count them."""
    results = {}
    for each in contenders:
        if each.reason or not hasattr(each.runtime, "host_copies"):
            continue
        generate(bundle, each.runtime, PROMPT)
        before = each.runtime.host_copies
        generate(bundle, each.runtime, PROMPT)
        after = each.runtime.host_copies
        results[each.label] = {name: after[name] - count for name, count in before.items()}
        each.facts["cuda_graphs"] = each.runtime.graphs
        each.facts["replay_error"] = each.runtime.replay_error
    return results


def _in_turns(
    calls: Mapping[str, Callable[[], object]],
    contenders: Sequence[Contender],
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Seconds of each call, A B C A B C; one that fails is excluded and named."""
    seconds: dict[str, list[float]] = {}
    by_label = {each.label: each for each in contenders}
    for number in range(options.warm_up + options.rounds):
        for label, call in calls.items():
            if by_label[label].reason:
                continue
            began = time.perf_counter()
            try:
                call()
            except Minit2iError as error:
                by_label[label].reason = str(error)
                seconds.pop(label, None)
                continue
            if number >= options.warm_up:
                seconds.setdefault(label, []).append(time.perf_counter() - began)
    return seconds


def _close(contenders: Sequence[Contender]) -> None:
    for each in contenders:
        if each.runtime is not None:
            each.runtime.close()


@contextmanager
def _work_folder(path: Path | None) -> Iterator[Path]:
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="minit2i-gpu-") as name:
        yield Path(name)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare every engine of a CUDA machine.")
    parser.add_argument("--variant", choices=CONFIGS, default="b-16", help="default: b-16")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--opset", type=int, choices=(18, 23), default=23)
    parser.add_argument("--device", default="cuda:0", help="of torch; default: cuda:0")
    parser.add_argument(
        "--engines", nargs="*", choices=("tensorrt", "tensorrt-rtx"),
        default=["tensorrt", "tensorrt-rtx"], help="default: both",
    )  # fmt: skip
    parser.add_argument("--target", nargs="*", default=[], help="of tensorrt-rtx, for example sm89")
    parser.add_argument("--official", type=Path, help="clone of the official PyTorch port")
    parser.add_argument("--student", action="store_true", help="the 4-step student as well")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--presets", nargs="+", default=["reference", "balanced", "fast"])
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2, help="of torch on the CPU")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--no-build", dest="build", action="store_false", help="engines are there")
    parser.add_argument("--no-golden", dest="golden", action="store_false")
    parser.add_argument("--work", type=Path, help="folder that keeps bundles and engines")
    parser.add_argument("-o", "--output", type=Path, help="JSON file for all figures")
    parser.add_argument(
        "--dry-run", action="store_true", help="a tiny network on the CPU, to try this program"
    )
    options = parser.parse_args(arguments)
    if options.dry_run:
        options.variant, options.device, options.precision = "tiny", "cpu", "fp32"
        options.batches, options.warm_up, options.rounds = [1, 2], 1, 2
        options.compile, options.opset = False, 18
    return options


if __name__ == "__main__":
    sys.exit(run_script(main))
