"""Smoothing strengths and input scales, searched on the activations that calibration stored."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from minit2i_deploy.errors import PrecisionWarning, UsageError
from minit2i_deploy.export.quantize.calibration.ranges import Calibration
from minit2i_deploy.export.quantize.graph.linear_layers import Linear
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.rounding.block_scales import (
    E4M3,
    input_scales,
    tensor_scale,
)
from minit2i_deploy.export.quantize.rounding.matrix import quantize_matrix
from minit2i_deploy.export.quantize.schemes import LEAST_RANGE, GraphScheme
from minit2i_deploy.export.quantize.smoothing import (
    SmoothGroup,
    apply_smoothing,
    smooth_groups,
    smoothing_exponents,
    ungrouped_layers,
)
from minit2i_deploy.progress import Progress, no_progress, stage_of

ALPHAS: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Shares of the largest magnitude that a scale may reach to, if clipping is allowed.
CLIPS: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
NO_CLIP: Final = (1.0,)
# An alternative must lower the error to this share: near ties depend on the last bits of a sum.
_GAIN: Final = 0.98


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScaledGraph:
    """A calibrated graph, as ``quantize_graph`` takes it.

    Args:
        step: smoothed, the same function as the source.
        scales: of inputs by site, and of attention's inputs.
        alphas: smoothing strength by group; 0 where the values are not smoothed.
        errors: by site, estimated squared error of the layers' outputs, relative to them.
        powers: by layer, the exponents of two that its inputs were divided by.
    """

    step: QuantizableGraph
    scales: Mapping[str, float]
    alphas: Mapping[str, float]
    errors: Mapping[str, float]
    powers: Mapping[str, np.ndarray] = field(default_factory=dict)


def smooth_and_scale(
    step: QuantizableGraph,
    scheme: GraphScheme,
    calibration: Calibration,
    *,
    smoothing: bool = True,
    clip: bool = False,
    exclude: Collection[str] = (),
    progress: Progress = no_progress,
) -> ScaledGraph:
    """Search smoothing strengths and scales, each by the error it leaves in its layers' outputs.

    Args:
        step: of the source bundle.
        scheme: what the layers are to become.
        calibration: of the same checkpoint.
        smoothing: whether to smooth at all.
        clip: whether a scale may reach to less than the largest recorded magnitude.
        exclude: layers that will not be quantized.
        progress: called with the share that is done.

    Raises:
        UsageError: as ``check_calibration``.
    """
    check_calibration(calibration, step, scheme)
    search = _Search(
        scheme=scheme,
        calibration=calibration,
        exclude=frozenset(exclude),
        clips=CLIPS if clip and scheme.needs_scales else NO_CLIP,
    )
    groups = smooth_groups(step) if smoothing else ()
    if smoothing:
        _warn_of_ungrouped(step, groups, scheme, exclude)
    alphas, powers = search.smooth(step, groups, stage_of(progress, 0.0, 0.8))
    smoothed = apply_smoothing(step, powers) if powers else step
    by_layer = {x.name: powers[g.name] for g in groups if g.name in powers for x in g.layers}
    scales, errors = search.scale(smoothed, by_layer, stage_of(progress, 0.8, 1.0))
    scales |= _attention_scales(step, scheme, calibration)
    return ScaledGraph(step=smoothed, scales=scales, alphas=alphas, errors=errors, powers=by_layer)


def _warn_of_ungrouped(
    step: QuantizableGraph,
    groups: Sequence[SmoothGroup],
    scheme: GraphScheme,
    exclude: Collection[str],
) -> None:
    quantized = [
        name
        for name in dict.fromkeys(layer.name for layer in step.linears)
        if name not in exclude and scheme.of_layer(name).activations is not None
    ]
    outside = ungrouped_layers(step, groups) & set(quantized)
    if outside:
        warnings.warn(
            f"{len(outside)} of {len(quantized)} quantized layers, {min(outside)} among them, are"
            " not smoothed, because no norm in a known form is before them; export the checkpoint"
            " again without --for",
            PrecisionWarning,
            stacklevel=3,
        )


def check_calibration(
    calibration: Calibration, step: QuantizableGraph, scheme: GraphScheme
) -> None:
    """Refuse a calibration of another network, or of a graph without what the scheme needs.

    Raises:
        UsageError: names the first layer whose input it lacks, or has with other channels, or the
            first input of attention that it lacks.
    """
    for layer in step.linears:
        absmax = calibration.absmax.get(layer.site)
        if absmax is None or absmax.shape[1] != layer.num_inputs:
            what = "nothing" if absmax is None else f"{absmax.shape[1]} channels"
            raise UsageError(
                f"the calibration has {what} of {layer.site}, which has {layer.num_inputs}"
                " channels; calibrate this bundle"
            )
    if scheme.attention is None:
        return
    for site in step.attention_inputs(scores_only=scheme.scores_only):
        if site.name not in calibration.absmax:
            raise UsageError(
                f"the calibration has nothing of {site.name}, as one of a bundle that was exported"
                " --for one engine, but the scheme quantizes it; calibrate this bundle"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Search:
    """What the search of every group and site depends on."""

    scheme: GraphScheme
    calibration: Calibration
    exclude: frozenset[str]
    clips: tuple[float, ...]

    def smooth(
        self, step: QuantizableGraph, groups: Sequence[SmoothGroup], progress: Progress
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Strength of every group, and the exponents of those that are smoothed."""
        alphas: dict[str, float] = {}
        powers: dict[str, np.ndarray] = {}
        for number, group in enumerate(groups):
            alphas[group.name], power = self._strength(step, group)
            if power.any():
                powers[group.name] = power
            progress((number + 1) / len(groups))
        return alphas, powers

    def scale(
        self, smoothed: QuantizableGraph, powers: Mapping[str, np.ndarray], progress: Progress
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Scales and estimated errors by site; ``powers`` are the exponents by layer."""
        scales: dict[str, float] = {}
        errors: dict[str, float] = {}
        sites = smoothed.readers(self.exclude)
        for number, (site, readers) in enumerate(sites.items()):
            power = powers.get(readers[0].name, np.zeros(readers[0].num_inputs, np.int64))
            inputs = _Inputs.of(self.calibration, site, power)
            scheme = self.scheme.of_layer(readers[0].name)
            weights = [_Weight.of(smoothed.matrix(layer), scheme) for layer in readers]
            scale, errors[site] = self._best_scale(inputs, weights, scheme)
            if scheme.needs_scales:
                scales[site] = scale
            progress((number + 1) / len(sites))
        return scales, errors

    def _strength(self, step: QuantizableGraph, group: SmoothGroup) -> tuple[float, np.ndarray]:
        """The strength that leaves the least error in the outputs of the group's layers."""
        unsmoothed = np.zeros(group.channels, np.int64)
        layers = [layer for layer in group.layers if layer.name not in self.exclude]
        if not layers:
            return 0.0, unsmoothed
        matrices = {layer.name: step.matrix(layer) for layer in layers}
        sites = dict.fromkeys(layer.site for layer in layers)
        inputs = np.max([self.calibration.channel_absmax(site) for site in sites], axis=0)
        weights = np.max([np.abs(matrix).max(axis=1) for matrix in matrices.values()], axis=0)
        best, least, best_power = 0.0, np.inf, unsmoothed
        for alpha in (0.0, *ALPHAS):
            power = smoothing_exponents(inputs, weights, alpha) if alpha else unsmoothed
            error = self._group_error(layers, matrices, power)
            if error < _GAIN * least:
                best, least, best_power = alpha, error, power
        return best, best_power

    def _group_error(
        self, layers: Sequence[Linear], matrices: Mapping[str, np.ndarray], power: np.ndarray
    ) -> float:
        factor = np.ldexp(np.float32(1), power)[:, None]
        by_site: dict[str, list[Linear]] = {}
        for layer in layers:
            by_site.setdefault(layer.site, []).append(layer)
        error = 0.0
        for site, readers in by_site.items():
            scheme = self.scheme.of_layer(readers[0].name)
            weights = [_Weight.of(matrices[layer.name] * factor, scheme) for layer in readers]
            inputs = _Inputs.of(self.calibration, site, power)
            error += self._best_scale(inputs, weights, scheme)[1]
        return error

    def _best_scale(
        self, inputs: _Inputs, weights: Sequence[_Weight], scheme: GraphScheme
    ) -> tuple[float, float]:
        """The input scale that leaves the least error, and that error relative to the output.

        Rounding errors of different channels are taken as independent, so squares add up: with d
        the rounding error of x and D that of W, the output's error is
        sum_c E[d_c^2] |W_c|^2 + E[x_c^2] |D_c|^2 over the channels c.
        """
        size = sum(weight.size for weight in weights)
        from_weights = float(sum(weight.error for weight in weights) @ inputs.power)
        total = max(float(size @ inputs.power), float(np.finfo(np.float32).tiny))
        if scheme.activations is None:
            return 0.0, from_weights / total
        best, least = 0.0, np.inf
        for clip in self.clips:
            scale = inputs.scale(scheme, clip)
            rounded = scheme.activations.round_trip(inputs.activations, scale)
            error = from_weights + float(size @ _mean_square(rounded - inputs.activations))
            if error / total < _GAIN * least:
                best, least = inputs.stored_scale(scheme, scale), error / total
        return best, least


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Inputs:
    """Stored activations of a smoothed value.

    Args:
        activations: float32 [n, channels].
        power: mean squares by channel.
        absmax: largest magnitude over the calibration.
    """

    activations: np.ndarray
    power: np.ndarray
    absmax: float

    @classmethod
    def of(cls, calibration: Calibration, site: str, power: np.ndarray) -> _Inputs:
        factor = np.ldexp(np.float32(1), -power)
        activations = calibration.activations[site] * factor
        return cls(
            activations=activations,
            power=_mean_square(activations),
            absmax=float((calibration.channel_absmax(site) * factor).max()),
        )

    def scale(self, scheme: GraphScheme, clip: float) -> np.ndarray:
        """float32 [1], [n, 1] where each token has its own, or [n, channels]."""
        assert scheme.activations is not None
        if scheme.takes_block_ranges:
            form, kind, tensor = scheme.activations, scheme.scale_format, self._tensor(scheme)
            scales = input_scales(self.activations, form, scheme.block, kind, tensor)
            return np.maximum(scales, np.finfo(np.float32).tiny)
        if scheme.per_token:
            largest = np.abs(self.activations).max(axis=1, keepdims=True)
            return np.asarray(
                np.maximum(largest, LEAST_RANGE) / np.float32(scheme.activations.largest)
            )
        return scheme.activations.scale_of(np.array([self.absmax * clip], np.float32))

    def stored_scale(self, scheme: GraphScheme, scale: np.ndarray) -> float:
        """The one that the graph holds: of blocks the tensor's."""
        tensor = self._tensor(scheme)
        return float(scale.max()) if tensor is None else float(tensor)

    def _tensor(self, scheme: GraphScheme) -> np.float32 | None:
        if scheme.scale_format != E4M3 or scheme.activations is None:
            return None
        return tensor_scale(self.absmax, scheme.activations)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Weight:
    """Sums of squares by input channel, of a matrix and of its rounding errors."""

    size: np.ndarray
    error: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, scheme: GraphScheme) -> _Weight:
        rounded = quantize_matrix(matrix, scheme).dequantize()[: len(matrix)]
        return cls(size=_square_sum(matrix), error=_square_sum(rounded - matrix))


def _mean_square(activations: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.einsum("nc,nc->c", activations, activations, dtype=np.float64)
    return total / len(activations)


def _square_sum(matrix: np.ndarray) -> np.ndarray:
    total: np.ndarray = np.einsum("io,io->i", matrix, matrix, dtype=np.float64)
    return total


def _attention_scales(
    step: QuantizableGraph, scheme: GraphScheme, calibration: Calibration
) -> dict[str, float]:
    form = scheme.attention
    if form is None:
        return {}
    scales = {}
    for site in step.attention_inputs(scores_only=scheme.scores_only):
        absmax = np.array([calibration.tensor_absmax(site.name)], np.float32)
        scales[site.name] = float(form.scale_of(absmax)[0])
    return scales
