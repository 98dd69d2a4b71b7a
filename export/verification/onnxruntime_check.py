"""The graphs of a bundle in onnxruntime on the CPU, against torch in float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.errors import RuntimeFailure, require
from minit2i_deploy.export.graphs.weights_file import GRAPH_FILE
from minit2i_deploy.export.verification.bounds import BOUNDS
from minit2i_deploy.export.verification.comparison import Call, compare_graph, compare_images
from minit2i_deploy.export.verification.reference import NetworkReference, TextReference
from minit2i_deploy.progress import Progress

_ENGINE: Final = {
    "fp32": "onnxruntime CPU",
    "fp16": "onnxruntime CPU, which computes fp16 graphs in fp32,",
}


def runs_in_onnxruntime(precision: str) -> bool:
    """Whether onnxruntime's CPU provider has kernels for a precision."""
    return precision in _ENGINE


def check_in_onnxruntime(
    folder: Path,
    text: TextReference,
    network: NetworkReference | None,
    precision: str,
    progress: Progress,
) -> list[Check]:
    """Run the graphs of a bundle.

    Args:
        folder: of the bundle.
        text: reference of the text encoder.
        network: reference of adapter and step; None checks the text encoder alone.
        precision: of adapter and step.
        progress: called with the share that is done.

    Returns:
        checks of each graph, of the recorded steps, and of the way from token ids to the image.

    Raises:
        RuntimeFailure: onnxruntime cannot run a graph.
    """
    encoder = _without_padding(_open(folder / "text_encoder"))
    where = f"{_ENGINE['fp32']} to torch fp32, the same inputs"
    checks = compare_graph("text_encoder", encoder, text.samples, BOUNDS["fp32"].graph, where)
    if network is None:
        return checks
    bounds, where = BOUNDS[precision], f"{_ENGINE[precision]} to torch fp32, the same inputs"
    adapter = _open(folder / "text_adapter")
    checks += compare_graph("text_adapter", adapter, network.adapter, bounds.graph, where)
    tokens = _tokens(encoder, adapter, text, network)
    del encoder, adapter  # the step's session needs the memory
    step = _open(folder / "transformer")
    checks += compare_graph("transformer", step, network.steps, bounds.graph, where)
    where = f"{_ENGINE[precision]} to torch fp32, token ids to bytes"
    checks.append(compare_images(step, network, tokens, bounds, where, progress))
    return checks


def _tokens(
    encoder: Call, adapter: Call, text: TextReference, network: NetworkReference
) -> np.ndarray:
    """float32 [2, 1, tokens, hidden]: the first prompt and the unconditional branch."""
    (hidden,) = encoder(text.samples[0].inputs)
    context = np.zeros_like(text.context)
    context[: len(hidden), : hidden.shape[1]] = hidden
    (tokens,) = adapter({**network.adapter[0].inputs, "context": context})
    return tokens[[0, -1], None]


def _without_padding(encoder: Call) -> Call:
    """The text encoder with zeros at padding, where its output is undefined."""

    def call(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        is_token = inputs["attention_mask"][..., None] > 0
        return [np.where(is_token, encoder(inputs)[0], np.float32(0))]

    return call


def _open(folder: Path) -> Call:
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
