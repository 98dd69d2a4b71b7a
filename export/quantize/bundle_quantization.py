"""Quantize, top to bottom: a bundle in, a measured bundle of fewer bits out, or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.folder import bundle_folder
from minit2i_deploy.bundle.manifest import GRAPHS, Quantization
from minit2i_deploy.errors import PrecisionWarning, SettingIgnoredWarning, UsageError
from minit2i_deploy.export.quantize.bundle_writing import (
    QuantizedGraph,
    graph_record,
    write_quantized_bundle,
)
from minit2i_deploy.export.quantize.calibration.prompts import (
    PromptSet,
    default_prompts,
    read_prompts,
)
from minit2i_deploy.export.quantize.calibration.range_collection import (
    calibrate,
    check_origin,
    plan_calibration,
)
from minit2i_deploy.export.quantize.calibration.ranges import Calibration
from minit2i_deploy.export.quantize.graph.linear_layers import excluded_layers, match_layers
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.graph.rewrite import check_graph, quantize_graph
from minit2i_deploy.export.quantize.measurement import NUM_IMAGES, measure
from minit2i_deploy.export.quantize.options import STEP, QuantizeOptions
from minit2i_deploy.export.quantize.rotation import (
    check_rotatable,
    rotate_calibration,
    rotate_step,
)
from minit2i_deploy.export.quantize.rounding.layers import NEAREST, RoundedLayers, round_layers
from minit2i_deploy.export.quantize.schemes import (
    Scheme,
    check_fits,
    find_scheme,
    slow_on,
)
from minit2i_deploy.export.quantize.smoothing_search import (
    ScaledGraph,
    check_calibration,
    smooth_and_scale,
)
from minit2i_deploy.export.quantize.text_quantization import write_text_quantization
from minit2i_deploy.export.verification.bounds import require_within_bounds
from minit2i_deploy.progress import Progress, no_progress, stage_of


def quantize_bundle(
    bundle: str | Path,
    out: str | Path,
    options: QuantizeOptions,
    *,
    progress: Progress = no_progress,
) -> Bundle:
    """Quantize a bundle, measured against itself.

    Args:
        bundle: the source, in fp32, fp16 or bf16.
        out: folder to create; it appears complete or not at all.
        options: scheme, layers, calibration.
        progress: called with the share that is done and the name of the stage.

    Raises:
        UsageError: an option does not apply, the bundle is quantized already, the scheme does not
            fit it, its calibration has too few activations, or the folder cannot be created or
            replaced.
        VerificationError: a graph differs from its source by more than its bound.
    """
    source = _open_source(bundle)
    scheme = find_scheme(options.scheme)
    base = source.manifest.graphs[STEP].precision
    check_fits(scheme, base, options.target)
    prompts = _prompts(source, options)
    if scheme.text_only:
        with bundle_folder(out, overwrite=options.overwrite, sources=(bundle,)) as folder:
            write_text_quantization(source, folder, scheme, prompts, options, progress)
        return Bundle.open(out)
    with bundle_folder(out, overwrite=options.overwrite, sources=(bundle,)) as folder:
        step = QuantizableGraph.read(source.graph_path(STEP))
        scheme = _including(scheme, step, options)
        check_graph(step, scheme.transformer)
        if options.rotate:
            check_rotatable(step)
        _warn(scheme, base, options)
        excluded = excluded_layers(
            step.linears, scheme.transformer.exclude, options.include, options.exclude
        )
        calibration = None
        if options.needs_calibration:
            calibration = _calibration(source, prompts, options, calibration_path(out), progress)
        scaled, rounded = _prepared(step, scheme, calibration, excluded, options, progress)
        graphs = _quantize_graphs(source, scheme, scaled, rounded, excluded, options, progress)
        checks = measure(
            source,
            {name: item.graph for name, item in graphs.items()},
            scheme,
            prompts.texts[1 : 1 + NUM_IMAGES],
            stage_of(progress, 0.7, 0.98, "measure"),
            switch_at=options.switch_at,
        )
        require_within_bounds(checks, "no bundle was written; see docs/guides/quantize.md")
        record = _record(source, scheme, calibration, scaled, graphs)
        write_quantized_bundle(folder, source, graphs, record, checks, options.switch_at)
        progress(1.0, "written")
    if calibration is not None and options.calibration is None:
        _remove_ranges(calibration_path(out), options)
    return Bundle.open(out)


def calibration_path(out: str | Path) -> Path:
    """Where ranges are stored until a bundle is complete, so that a new run finds them.

    Hidden, because it is removed at the end: users save theirs as ``OUT.calibration.npz``.
    """
    target = Path(out).resolve()
    return target.with_name(f".{target.name}.calibration-partial.npz")


def _open_source(path: str | Path) -> Bundle:
    source = Bundle.open(path)
    if source.manifest.quantization is not None:
        raise UsageError(
            f"{source.path}: is quantized already ({source.manifest.quantization.scheme}); give the"
            " bundle that minit2i export wrote"
        )
    return source


def _including(scheme: Scheme, step: QuantizableGraph, options: QuantizeOptions) -> Scheme:
    included = match_layers(step.linears, options.include)
    return scheme.including(included, [layer.name for layer in step.linears])


def _prompts(source: Bundle, options: QuantizeOptions) -> PromptSet:
    if options.prompts is None:
        return default_prompts(source)
    return read_prompts(Path(options.prompts), source)


def _warn(scheme: Scheme, base: str, options: QuantizeOptions) -> None:
    """Of options without effect, and of a source that will be slow where the result is to run."""
    if (reason := slow_on(scheme, base, options.target)) is not None:
        warnings.warn(reason, PrecisionWarning, stacklevel=3)
    for name, reason in options.ignored().items():
        warnings.warn(
            f"--{name} has no effect: scheme {options.scheme} with rounding"
            f" {options.rounding_of_layers} {reason}",
            SettingIgnoredWarning,
            stacklevel=3,
        )


def _calibration(
    source: Bundle, prompts: PromptSet, options: QuantizeOptions, path: Path, progress: Progress
) -> Calibration:
    """The user's file, that of an interrupted run at ``path``, or a new one."""
    if options.calibration is not None:
        calibration = Calibration.load(options.calibration)
        check_origin(calibration, source, f"{options.calibration}: the calibration")
        _check_activations(calibration, options, Path(options.calibration))
    elif (earlier := _earlier_calibration(source, prompts, options, path)) is not None:
        calibration = earlier
    else:
        done = stage_of(progress, 0.0, 0.5, "calibrate")
        calibration = calibrate(source, prompts, options.full_draw, done)
        calibration.save(path)
    if options.save_calibration is not None:
        calibration.save(options.save_calibration)
    return calibration


def _earlier_calibration(
    source: Bundle, prompts: PromptSet, options: QuantizeOptions, path: Path
) -> Calibration | None:
    if not path.is_file():
        return None
    earlier = Calibration.load(path)
    plan = plan_calibration(source, prompts, options.full_draw)
    return earlier if earlier.meta == dict(plan.meta) else None


def _check_activations(calibration: Calibration, options: QuantizeOptions, path: Path) -> None:
    actual = min(len(values) for values in calibration.activations.values())
    if actual < options.least_activations:
        plain = "--rounding nearest" + (" without --low-rank" if options.low_rank else "")
        raise UsageError(
            f"{path}: has {actual} activations of each value, but these weights are rounded by"
            f" {options.least_activations} or more; calibrate again, or pass {plain}"
        )


def _prepared(
    step: QuantizableGraph,
    scheme: Scheme,
    calibration: Calibration | None,
    excluded: frozenset[str],
    options: QuantizeOptions,
    progress: Progress,
) -> tuple[ScaledGraph, RoundedLayers]:
    """The step graph, rotated and smoothed, with its scales, and its rounded weights."""
    if calibration is not None:
        check_calibration(calibration, step, scheme.transformer)
    if options.rotate:
        turned = rotate_step(step)
        calibration = None if calibration is None else rotate_calibration(step, calibration)
        step = turned
    form = scheme.transformer
    if calibration is None:
        scaled = ScaledGraph(step=step, scales={}, alphas={}, errors={})
        return scaled, RoundedLayers(weights={}, branches={})
    scaled = smooth_and_scale(
        step,
        form,
        calibration,
        smoothing=options.smoothing and form.gains_by_smoothing,
        clip=options.clip,
        exclude=excluded,
        progress=stage_of(progress, 0.5, 0.6, "smooth and scale"),
    )
    if not options.judges_weights:
        return scaled, RoundedLayers(weights={}, branches={})
    rounded = round_layers(
        scaled.step,
        form,
        calibration,
        rounding=options.rounding_of_layers,
        rank=options.low_rank,
        exclude=excluded,
        powers=scaled.powers,
        progress=stage_of(progress, 0.6, 0.68, "round weights"),
    )
    return scaled, rounded


def _quantize_graphs(
    source: Bundle,
    scheme: Scheme,
    scaled: ScaledGraph,
    rounded: RoundedLayers,
    excluded: frozenset[str],
    options: QuantizeOptions,
    progress: Progress,
) -> dict[str, QuantizedGraph]:
    graphs = {}
    for name in (name for name in GRAPHS if name in options.graphs):
        progress(0.68, f"quantize {name}")
        form = scheme.of_graph(name)
        if name == STEP:
            quantized = quantize_graph(
                scaled.step,
                form,
                scaled.scales,
                exclude=excluded,
                weights=rounded.weights,
                branches=rounded.branches,
            )
            record = graph_record(scaled.step, form, excluded, _method(options))
        else:
            plain = QuantizableGraph.read(source.graph_path(name))
            quantized = quantize_graph(plain, form, {})
            record = graph_record(plain, form, frozenset())
        precision = scheme.precision if name == STEP else ""
        graphs[name] = QuantizedGraph(graph=quantized, record=record, precision=precision)
    return graphs


def _method(options: QuantizeOptions) -> str:
    """How the step graph's weights were found, for the manifest."""
    parts = []
    if options.rounding_of_layers != NEAREST:
        parts.append(f"weights by {options.rounding_of_layers}")
    if options.rotate:
        parts.append("rotated")
    if options.low_rank:
        parts.append(f"branches of rank {options.low_rank}")
    return "".join(f", {part}" for part in parts)


def _record(
    source: Bundle,
    scheme: Scheme,
    calibration: Calibration | None,
    scaled: ScaledGraph,
    graphs: Mapping[str, QuantizedGraph],
) -> Quantization:
    return Quantization(
        scheme=scheme.name,
        base_precision=source.manifest.graphs[STEP].precision,
        source_digest=source.digest,
        calibration_sha256=None if calibration is None else calibration.digest,
        smoothing=dict(scaled.alphas),
        graphs={name: item.record for name, item in graphs.items()},
    )


def _remove_ranges(path: Path, options: QuantizeOptions) -> None:
    """Unless the user named this very file."""
    saved = options.save_calibration
    is_users = saved is not None and Path(saved).resolve() == path
    if not is_users:
        path.unlink(missing_ok=True)
