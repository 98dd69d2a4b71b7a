"""Smoothing strengths and input scales, searched layer by layer on the calibration's rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.calibration.ranges import Calibration
from minit2i_deploy.export.quantize.graph.linear_layers import (
    Linear,
    default_exclusions,
    linear_layers,
)
from minit2i_deploy.export.quantize.graph.measured_values import attention_sites
from minit2i_deploy.export.quantize.graph.model_graph import Graph
from minit2i_deploy.export.quantize.schemes import GraphScheme
from minit2i_deploy.export.quantize.smoothing import (
    SmoothGroup,
    apply_smoothing,
    smooth_groups,
    smoothing_exponents,
)
from minit2i_deploy.export.quantize.weights import block_for, round_trip_weight
from minit2i_deploy.progress import Progress, no_progress

ALPHAS: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Shares of the largest magnitude that a scale may reach to, where clipping is asked for.
CLIPS: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
WHOLE: Final = (1.0,)
# A choice must gain this share of the error: near ties would be settled by a sum's last bits.
_GAIN: Final = 0.98


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prepared:
    """What ``quantize_graph`` needs of a calibrated graph.

    Args:
        graph: smoothed, the same function as the source.
        scales: of inputs by site, and of attention's inputs.
        alphas: smoothing strength by group; 0 where the values are left as they were.
        errors: by site, estimated squared error of the layers' outputs, relative to them.
    """

    graph: Graph
    scales: Mapping[str, float]
    alphas: Mapping[str, float]
    errors: Mapping[str, float]


def prepare(
    graph: Graph,
    scheme: GraphScheme,
    calibration: Calibration,
    *,
    smoothing: bool = True,
    clip: bool = False,
    exclude: Collection[str] = (),
    progress: Progress = no_progress,
) -> Prepared:
    """Search smoothing strengths and scales, each by the error it leaves in its layers' outputs.

    Args:
        graph: of the source bundle.
        scheme: what the layers are to become.
        calibration: of the same checkpoint.
        smoothing: whether to smooth at all.
        clip: whether a scale may reach to less than the largest magnitude seen.
        exclude: layers that will not be quantised.
        progress: called with the share that is done.

    Raises:
        UsageError: the calibration lacks a value of this graph, or has other channels.
    """
    layers = linear_layers(graph)
    check_fits(calibration, layers)
    kept = [layer for layer in layers if layer.name not in exclude]
    groups = smooth_groups(graph) if smoothing else ()
    clips = CLIPS if clip and scheme.needs_scales else WHOLE
    alphas: dict[str, float] = {}
    powers: dict[str, np.ndarray] = {}
    for number, group in enumerate(groups):
        part = _scheme_of(scheme, group.layers)
        alphas[group.name], power = _strength(graph, part, calibration, group, kept, clips)
        if power.any():
            powers[group.name] = power
        progress(0.8 * (number + 1) / len(groups))
    smoothed = apply_smoothing(graph, powers) if powers else graph
    by_layer = {x.name: powers[g.name] for g in groups if g.name in powers for x in g.layers}
    scales: dict[str, float] = {}
    errors: dict[str, float] = {}
    for number, (site, readers) in enumerate(_by_site(kept).items()):
        power = by_layer.get(readers[0].name, np.zeros(readers[0].num_inputs, np.int64))
        inputs = _Inputs.of(calibration, site, power)
        part = _scheme_of(scheme, readers)
        weights = [_Weight.of(_matrix(smoothed, layer), part) for layer in readers]
        scale, errors[site] = _best_scale(inputs, weights, part, clips)
        if part.needs_scales:
            scales[site] = scale
        progress(0.8 + 0.2 * (number + 1) / len(kept))
    scales |= _attention_scales(graph, scheme, calibration)
    return Prepared(graph=smoothed, scales=scales, alphas=alphas, errors=errors)


def _scheme_of(scheme: GraphScheme, layers: Sequence[Linear]) -> GraphScheme:
    """What becomes of these layers, which read one value: all or none of them weights alone."""
    light = default_exclusions(layers, scheme.weights_only)
    return dataclasses.replace(scheme, activations=None) if light else scheme


def check_fits(calibration: Calibration, layers: Sequence[Linear]) -> None:
    """Refuse a calibration of another network.

    Raises:
        UsageError: names the first layer it does not know, or knows with other channels.
    """
    for layer in layers:
        found = calibration.absmax.get(layer.site)
        if found is None or found.shape[1] != layer.num_inputs:
            what = "nothing" if found is None else f"{found.shape[1]} channels"
            raise UsageError(
                f"the calibration knows {what} of {layer.site}, which has {layer.num_inputs}"
                " channels; calibrate this bundle"
            )


def _by_site(layers: Sequence[Linear]) -> dict[str, list[Linear]]:
    found: dict[str, list[Linear]] = {}
    for layer in layers:
        found.setdefault(layer.site, []).append(layer)
    return found


def _matrix(graph: Graph, layer: Linear) -> Float32[np.ndarray, "inputs outputs"]:
    return np.asarray(graph.weights[layer.weight], dtype=np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Inputs:
    """Stored rows of a smoothed value, their mean squares by channel, its largest magnitude."""

    rows: np.ndarray
    power: np.ndarray
    absmax: float

    @classmethod
    def of(cls, calibration: Calibration, site: str, power: np.ndarray) -> _Inputs:
        factor = np.ldexp(np.float32(1), -power)
        rows = calibration.rows[site] * factor
        return cls(
            rows=rows,
            power=_mean_square(rows),
            absmax=float((calibration.channel_absmax(site) * factor).max()),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Weight:
    """Sums of squares of a matrix's rows, and of what rounding takes from them."""

    size: np.ndarray
    lost: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, scheme: GraphScheme) -> _Weight:
        block = block_for(len(matrix), scheme.block)
        lost = round_trip_weight(matrix, scheme.weights, block) - matrix
        return cls(size=_square_sum(matrix), lost=_square_sum(lost))


def _mean_square(rows: np.ndarray) -> np.ndarray:
    mean: np.ndarray = np.einsum("nc,nc->c", rows, rows, dtype=np.float64) / len(rows)
    return mean


def _square_sum(matrix: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.einsum("io,io->i", matrix, matrix, dtype=np.float64)
    return total


def _strength(
    graph: Graph,
    scheme: GraphScheme,
    calibration: Calibration,
    group: SmoothGroup,
    kept: Sequence[Linear],
    clips: tuple[float, ...],
) -> tuple[float, np.ndarray]:
    """The strength that leaves the least error in the outputs of the group's layers."""
    still = np.zeros(group.channels, np.int64)
    sites = _by_site([layer for layer in group.layers if layer in kept])
    if not sites:
        return 0.0, still
    matrices = {x.name: _matrix(graph, x) for readers in sites.values() for x in readers}
    inputs = np.max([calibration.channel_absmax(site) for site in sites], axis=0)
    rows = np.max([np.abs(matrix).max(axis=1) for matrix in matrices.values()], axis=0)
    best, least, chosen = 0.0, np.inf, still
    for alpha in (0.0, *ALPHAS):
        power = smoothing_exponents(inputs, rows, alpha) if alpha else still
        factor = np.ldexp(np.float32(1), power)[:, None]
        error = 0.0
        for site, readers in sites.items():
            weights = [_Weight.of(matrices[layer.name] * factor, scheme) for layer in readers]
            seen = _Inputs.of(calibration, site, power)
            error += _best_scale(seen, weights, scheme, clips)[1]
        if error < _GAIN * least:
            best, least, chosen = alpha, error, power
    return best, chosen


def _best_scale(
    inputs: _Inputs, weights: Sequence[_Weight], scheme: GraphScheme, clips: tuple[float, ...]
) -> tuple[float, float]:
    """The input scale that leaves the least error, and that error relative to the output.

    Rounding errors of different channels are taken as independent, so squares add up: with d what
    rounding takes from x and D what it takes from W, the output's error is
    sum_c E[d_c^2] |W_c|^2 + E[x_c^2] |D_c|^2 over the channels c.
    """
    size = sum(weight.size for weight in weights)
    from_weights = float(sum(weight.lost for weight in weights) @ inputs.power)
    whole = max(float(size @ inputs.power), float(np.finfo(np.float32).tiny))
    if scheme.activations is None:
        return 0.0, from_weights / whole
    best, least = 0.0, np.inf
    for clip in clips:
        scale = scheme.activations.scale_of(np.array([inputs.absmax * clip], np.float32))
        lost = _mean_square(scheme.activations.round_trip(inputs.rows, scale) - inputs.rows)
        error = (from_weights + float(size @ lost)) / whole
        if error < _GAIN * least:
            best, least = float(scale[0]), error
    return best, least


def _attention_scales(
    graph: Graph, scheme: GraphScheme, calibration: Calibration
) -> dict[str, float]:
    chosen = scheme.attention
    if chosen is None:
        return {}
    scales = {}
    for site in attention_sites(graph):
        highest = np.array([calibration.tensor_absmax(site.name)], np.float32)
        scales[site.name] = float(chosen.scale_of(highest)[0])
    return scales
