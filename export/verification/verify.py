"""Measured differences between the graphs in onnxruntime and torch in float32, and their bounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.bundle.parity import step_check
from minit2i_deploy.errors import RuntimeFailure, require
from minit2i_deploy.evaluation.relative_error import max_relative_error
from minit2i_deploy.export.graphs.modules import AdapterGraph
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE
from minit2i_deploy.export.verification.bounds import require_within_bounds
from minit2i_deploy.export.verification.reference import (
    GUIDANCE,
    NetworkReference,
    Sample,
    TextReference,
    sample,
)
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.model import MMJiT, Step
from minit2i_deploy.progress import Progress
from minit2i_deploy.solvers.table import Table

__all__ = [
    "BOUNDS",
    "Bounds",
    "compare",
    "compare_torch",
    "require_within_bounds",
    "runs_in_onnxruntime",
]

Call = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]

_RUN: Final = "onnxruntime CPU to torch fp32, the same inputs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Largest relative error of a graph; share of bytes that may be off by more than levels."""

    graph: float
    levels: int
    share: float


# Measured: fp32 3.1e-6, 0 of 1; fp16 3e-3, 0 of 2; bf16 2.4e-2, 0.003 of 8, L/16 0.016 (random
# networks of 64 channels, and of B/16's and L/16's shape).
BOUNDS: Final[Mapping[str, Bounds]] = {
    "fp32": Bounds(graph=1e-5, levels=1, share=1e-3),
    "fp16": Bounds(graph=1e-2, levels=2, share=1e-2),
    "bf16": Bounds(graph=8e-2, levels=8, share=3e-2),
}


def runs_in_onnxruntime(precision: str) -> bool:
    """Whether onnxruntime's CPU provider has the kernels of a precision."""
    return precision != "bf16"


def compare(
    folder: Path,
    text: TextReference,
    network: NetworkReference | None,
    precision: str,
    progress: Progress,
) -> list[Check]:
    """Run the graphs of a bundle in onnxruntime on the CPU.

    Args:
        folder: of the bundle.
        text: what the text encoder must give.
        network: what adapter and step must give; None where onnxruntime cannot run them.
        precision: of the adapter and the step.
        progress: called with the share that is done.

    Returns:
        a check a graph, one for each step of the reference trajectory that was kept, and one
        for the whole way from token ids to pixels.
    """
    encoder = _session(folder / "text_encoder")
    bound = BOUNDS["fp32"].graph
    checks = _checks("text_encoder", encoder, _mask_padding, text.samples, bound, _RUN)
    if network is None:
        return checks
    adapter = _session(folder / "text_adapter")
    bound = BOUNDS[precision].graph
    checks += _checks("text_adapter", adapter, _keep, network.adapter, bound, _RUN)
    hidden = _mask_padding(text.samples[0].inputs, encoder(text.samples[0].inputs))[0]
    context = np.zeros_like(text.context)
    context[: len(hidden), : hidden.shape[1]] = hidden
    tokens = adapter({**network.adapter[0].inputs, "context": context})[0]
    del encoder, adapter  # the step's session needs the memory
    step = _session(folder / "transformer")
    checks += _checks("transformer", step, _keep, network.steps, bound, _RUN)
    pixels = _run(step, network, tokens[[0, -1], None], progress)
    where = f"onnxruntime to torch fp32, token ids to bytes, {_table_words(network.table)}"
    checks.append(_pixel_check(pixels, network.pixels, BOUNDS[precision], where))
    return checks


def compare_torch(
    net: MMJiT, network: NetworkReference, precision: str, progress: Progress
) -> list[Check]:
    """Run the network in its own precision in torch, where onnxruntime's CPU has no kernels.

    Args:
        net: in the precision.
        network: what float32 gave.
        precision: of the network.
        progress: called with the share that is done.
    """
    adapter, step = AdapterGraph(net.text_adapter), Step(net.denoiser)
    calls: dict[str, tuple[Call, Iterable[Sample]]] = {
        "text_adapter": (_torch_call(adapter, ("tokens",)), network.adapter),
        "transformer": (_torch_call(step, ("x_next", "h_next")), network.steps),
    }
    other = f"torch {precision} to torch fp32; not run in onnxruntime, whose CPU has no {precision}"
    bound = BOUNDS[precision]
    checks = [
        check
        for name, (call, samples) in calls.items()
        for check in _checks(name, call, _keep, samples, bound.graph, other)
    ]
    tokens = calls["text_adapter"][0](network.adapter[0].inputs)[0]
    pixels = _run(calls["transformer"][0], network, tokens[[0, -1], None], progress)
    where = f"{other}; {_table_words(network.table)}"
    return [*checks, _pixel_check(pixels, network.pixels, bound, where)]


def _session(folder: Path) -> Call:
    ort = require("onnxruntime", "export")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Threads that spin between calls slow down whatever else the machine does.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = folder / GRAPH_FILE
    with _engine_errors(path):
        session: Any = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])

    def call(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with _engine_errors(path):
            outputs: list[np.ndarray] = session.run(None, dict(inputs))
        return outputs

    return call


@contextlib.contextmanager
def _engine_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # onnxruntime's own classes share no base
        reason = str(error).splitlines()[0]
        raise RuntimeFailure(f"{path}: onnxruntime cannot run this graph ({reason})") from error


def _torch_call(module: torch.nn.Module, outputs: tuple[str, ...]) -> Call:
    def call(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return list(sample(module, inputs, outputs).outputs.values())

    return call


def _keep(inputs: Mapping[str, np.ndarray], outputs: list[np.ndarray]) -> list[np.ndarray]:
    return outputs


def _mask_padding(inputs: Mapping[str, np.ndarray], outputs: list[np.ndarray]) -> list[np.ndarray]:
    real = inputs["attention_mask"][..., None] > 0
    return [np.where(real, outputs[0], np.float32(0))]


def _checks(
    name: str,
    call: Call,
    after: Callable[[Mapping[str, np.ndarray], list[np.ndarray]], list[np.ndarray]],
    samples: Iterable[Sample],
    bound: float,
    other: str,
) -> list[Check]:
    """The worst of all samples under the graph's name, then each step that has a time."""
    errors: dict[str, list[float]] = {name: []}
    for item in samples:
        outputs = after(item.inputs, call(item.inputs))
        found = [
            max_relative_error(output, wanted)
            for output, wanted in zip(outputs, item.outputs.values(), strict=True)
        ]
        errors[name] += found
        if item.t is not None:
            errors[step_check(name, item.t)] = found
    return [
        # max() would pass over a NaN.
        Check(name=key, measured=float(np.max(found)), bound=bound, unit="relative", where=other)
        for key, found in errors.items()
    ]


def _run(
    step: Call, network: NetworkReference, tokens: np.ndarray, progress: Progress
) -> np.ndarray:
    x, h = network.start, np.zeros_like(network.start)
    rows = network.table.steps(GUIDANCE)
    for row in rows:
        used = tokens[: len(row.weights)]
        inputs = {"x": x, "h": h, "tokens": used, "weights": row.weights, "row": row.values}
        x, h = step(inputs)
        progress((row.index + 1) / len(rows))
    return to_uint8(x)


def _pixel_check(found: np.ndarray, wanted: np.ndarray, bounds: Bounds, where: str) -> Check:
    off = np.abs(found.astype(np.int16) - wanted.astype(np.int16)) > bounds.levels
    return Check(
        name="trajectory",
        measured=float(off.mean()),
        bound=bounds.share,
        unit=f"share of bytes off by more than {bounds.levels}",
        where=where,
    )


def _table_words(table: Table) -> str:
    guidance = table.column("omega")[0] if table.is_conditioned else GUIDANCE
    return f"{table.name} at guidance {guidance:g}"
