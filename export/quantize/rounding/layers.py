"""The weights of all layers of a step graph, rounded by one method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.calibration.ranges import Calibration
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.rounding.gptq import quantize_by_gptq, second_moments
from minit2i_deploy.export.quantize.rounding.low_rank import Branch, low_rank_branch
from minit2i_deploy.export.quantize.rounding.matrix import QuantizedWeight, quantize_matrix
from minit2i_deploy.export.quantize.schemes import GraphScheme
from minit2i_deploy.progress import Progress, no_progress

NEAREST: Final = "nearest"
SEARCH: Final = "search"
GPTQ: Final = "gptq"
ROUNDINGS: Final = (NEAREST, SEARCH, GPTQ)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RoundedLayers:
    """By layer: quantized matrices, and branches where there are any."""

    weights: Mapping[str, QuantizedWeight]
    branches: Mapping[str, Branch]


def check_rounding(rounding: str, scheme: GraphScheme, name: str) -> None:
    """Refuse a method that does not exist, or does not fit a scheme.

    Raises:
        UsageError: unknown, or the scheme's weights are pair-safe.
    """
    if rounding not in ROUNDINGS:
        raise UsageError(f"unknown rounding {rounding!r}; choose one of {', '.join(ROUNDINGS)}")
    if rounding != NEAREST and scheme.pair_safe:
        raise UsageError(
            f"rounding {rounding} does not bound the sums of pairs that scheme {name} needs on"
            f" processors without VNNI; choose {NEAREST}"
        )


def round_layers(
    step: QuantizableGraph,
    scheme: GraphScheme,
    calibration: Calibration,
    *,
    rounding: str,
    rank: int = 0,
    exclude: Collection[str] = (),
    powers: Mapping[str, np.ndarray] | None = None,
    progress: Progress = no_progress,
) -> RoundedLayers:
    """Round every layer's weight, judged by what calibration recorded of its inputs.

    Args:
        step: smoothed and rotated as it is to be.
        scheme: of the graph.
        calibration: of ``step``, but for the smoothing.
        rounding: one of ROUNDINGS.
        rank: of the branches; 0 for none.
        exclude: layers that are not quantized.
        powers: by layer, the exponents of two of its smoothing.
        progress: called with the share that is done.
    """
    sites: dict[str, list[str]] = {}
    for layer in step.linears:
        if layer.name not in exclude:
            sites.setdefault(layer.name, []).append(layer.site)
    layers = {layer.name: layer for layer in reversed(step.linears)}
    weights: dict[str, QuantizedWeight] = {}
    branches: dict[str, Branch] = {}
    for number, (name, used) in enumerate(sites.items()):
        inputs = np.concatenate([calibration.activations[site] for site in used])
        if powers and name in powers:
            inputs = inputs * np.ldexp(np.float32(1), -powers[name])
        matrix, moments = step.matrix(layers[name]), second_moments(inputs)
        if rank:
            branches[name] = low_rank_branch(matrix, moments, rank)
            matrix = matrix - branches[name].product()
        weights[name] = _round(matrix, scheme.of_layer(name), moments, rounding)
        progress((number + 1) / len(sites))
    return RoundedLayers(weights=weights, branches=branches)


def _round(
    matrix: np.ndarray, scheme: GraphScheme, moments: np.ndarray, rounding: str
) -> QuantizedWeight:
    if rounding == GPTQ:
        return quantize_by_gptq(matrix, scheme, moments)
    searched = rounding == SEARCH
    importance = np.diag(moments).astype(np.float32) if searched else None
    return quantize_matrix(matrix, scheme, searched=searched, importance=importance)
