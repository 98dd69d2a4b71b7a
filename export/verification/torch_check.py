"""The network in its own 16-bit precision in torch, against torch in float32.

onnxruntime's CPU provider has no bf16 kernels and computes fp16 graphs in float32, so it can
neither run the one nor see the other overflow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.export.graphs.modules import AdapterGraph
from minit2i_deploy.export.verification.activation_range import ActivationRange
from minit2i_deploy.export.verification.bounds import BOUNDS
from minit2i_deploy.export.verification.comparison import Call, compare_graph, compare_images
from minit2i_deploy.export.verification.onnxruntime_check import runs_in_onnxruntime
from minit2i_deploy.export.verification.reference import NetworkReference, run_module
from minit2i_deploy.model import MMJiT, Step
from minit2i_deploy.progress import Progress

_IN_TORCH: Final = " in torch"


def runs_in_torch(precision: str) -> bool:
    """Whether a precision is checked in torch: each that differs from the reference's float32."""
    return precision != "fp32"


def check_in_torch(
    net: MMJiT, network: NetworkReference, precision: str, progress: Progress
) -> list[Check]:
    """Run adapter, steps and trajectory in torch in the network's own precision.

    Args:
        net: in the precision.
        network: reference in float32.
        precision: of the network.
        progress: called with the share that is done.

    Returns:
        for bf16, which nothing else checks, all checks of ``check_in_onnxruntime`` but the text
        encoder's; for fp16 the largest magnitude of its activations, and then the graphs and the
        trajectory once more, under names of their own.
    """
    adapter, step = AdapterGraph(net.text_adapter), Step(net.denoiser)
    run_adapter, run_step = _call(adapter, ("tokens",)), _call(step, ("x_next", "h_next"))
    where, bounds = f"torch {precision} to torch fp32", BOUNDS[precision]
    is_only_check = not runs_in_onnxruntime(precision)
    if is_only_check:
        where += f"; not run in onnxruntime, whose CPU has no {precision}"
    activations = ActivationRange(adapter, step)
    with contextlib.nullcontext() if is_only_check else activations:
        checks = compare_graph("text_adapter", run_adapter, network.adapter, bounds.graph, where)
        checks += compare_graph("transformer", run_step, network.steps, bounds.graph, where)
        tokens = run_adapter(network.adapter[0].inputs)[0][[0, -1], None]
        checks.append(compare_images(run_step, network, tokens, bounds, where, progress))
    if is_only_check:
        return checks
    # One name is one check: the graph's own stays onnxruntime's.
    renamed = [
        replace(check, name=check.name + _IN_TORCH) for check in checks if "@" not in check.name
    ]
    return [activations.check(precision), *renamed]


def _call(module: torch.nn.Module, outputs: tuple[str, ...]) -> Call:
    def call(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return list(run_module(module, inputs, outputs).outputs.values())

    return call
