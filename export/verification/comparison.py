"""Comparing a graph, whatever runs it, with its recorded reference in torch at float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from minit2i_deploy.bundle.manifest import Check
from minit2i_deploy.bundle.parity import step_check
from minit2i_deploy.evaluation.relative_error import max_relative_error
from minit2i_deploy.export.verification.bounds import Bounds
from minit2i_deploy.export.verification.reference import (
    GUIDANCE,
    NetworkReference,
    Sample,
    step_inputs,
)
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.progress import Progress
from minit2i_deploy.solvers.table import Table

# Inputs by name -> outputs in the graph's order.
Call = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


def compare_graph(
    name: str, call: Call, samples: Iterable[Sample], bound: float, where: str
) -> list[Check]:
    """Relative errors of a graph's outputs.

    Args:
        name: of the graph.
        call: runs it.
        samples: inputs and expected outputs.
        bound: largest relative error.
        where: text of the checks: what runs the graph, and what it is compared with.

    Returns:
        the worst error of all samples under the graph's name, then one check for each step of
        the reference trajectory.
    """
    errors: dict[str, list[float]] = {name: []}
    for sample in samples:
        pairs = zip(call(sample.inputs), sample.outputs.values(), strict=True)
        of_sample = [max_relative_error(actual, expected) for actual, expected in pairs]
        errors[name] += of_sample
        if sample.t is not None:
            errors[step_check(name, sample.t)] = of_sample
    return [
        # Not max(), which passes over a NaN.
        Check(name=key, measured=float(np.max(values)), bound=bound, unit="relative", where=where)
        for key, values in errors.items()
    ]


def compare_images(
    step: Call,
    network: NetworkReference,
    tokens: np.ndarray,
    bounds: Bounds,
    where: str,
    progress: Progress,
) -> Check:
    """Share of the bytes of the reference trajectory's image that differ.

    Args:
        step: runs the step graph.
        network: start, table and image of the trajectory.
        tokens: float32 [branches, 1, tokens, hidden].
        bounds: of the precision.
        where: text of the check; the table and guidance are added to it.
        progress: called with the share that is done.
    """
    x = _final_state(step, network, tokens, progress)
    return Check(
        name="trajectory",
        measured=_share_off(x, network.image, bounds.levels),
        bound=bounds.share,
        unit=f"share of bytes off by more than {bounds.levels}",
        where=f"{where}, {_describe(network.table)}",
    )


def _final_state(
    step: Call, network: NetworkReference, tokens: np.ndarray, progress: Progress
) -> np.ndarray:
    """float32 [1, 3, H, W] at the end of the reference trajectory."""
    x, h = network.start, np.zeros_like(network.start)
    for row in network.table.steps(GUIDANCE):
        x, h = step(step_inputs(x, h, tokens, row))
        progress((row.index + 1) / len(network.table))
    return x


def _share_off(x: np.ndarray, image: np.ndarray, levels: int) -> float:
    if not np.isfinite(x).all():
        return 1.0  # an overflow has no image to compare
    difference = np.abs(to_uint8(x).astype(np.int16) - image.astype(np.int16))
    return float((difference > levels).mean())


def _describe(table: Table) -> str:
    guidance = table.column("omega")[0] if table.is_conditioned else GUIDANCE
    return f"{table.name} at guidance {guidance:g}"
