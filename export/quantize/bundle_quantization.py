"""Quantise, top to bottom: a bundle in, a measured bundle of fewer bits out, or nothing at all."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle, write_manifest
from minit2i_deploy.bundle.folder import bundle_folder
from minit2i_deploy.bundle.manifest import (
    GRAPHS,
    Check,
    GraphInfo,
    GraphQuantization,
    Quantization,
    StepSwitch,
)
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.calibration.collection import DrawSettings, calibrate, plan
from minit2i_deploy.export.quantize.calibration.prompts import (
    PromptSet,
    default_prompts,
    read_prompts,
)
from minit2i_deploy.export.quantize.calibration.ranges import Calibration
from minit2i_deploy.export.quantize.graph.linear_layers import (
    default_exclusions,
    excluded_layers,
    linear_layers,
)
from minit2i_deploy.export.quantize.graph.model_graph import Graph, read_graph, write_graph
from minit2i_deploy.export.quantize.graph.rewrite import check_graph, quantize_graph
from minit2i_deploy.export.quantize.measurement import PICTURES, measure
from minit2i_deploy.export.quantize.schemes import Scheme, check_fits, find_scheme
from minit2i_deploy.export.quantize.smoothing_search import prepare
from minit2i_deploy.export.quantize.switch_bundle import check_late_time, copy_late_graph
from minit2i_deploy.export.verification.bounds import require_within_bounds
from minit2i_deploy.progress import Progress, no_progress, stage_of

_STEP: Final = "transformer"
_TOOLS: Final = ("ml_dtypes", "numpy", "onnx", "onnxruntime")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Quantised:
    """One graph done, and its record."""

    graph: Graph
    record: GraphQuantization


def quantize_bundle(
    bundle: str | Path,
    out: str | Path,
    scheme: str,
    *,
    calibration: str | Path | None = None,
    prompts: str | Path | None = None,
    settings: DrawSettings | None = None,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    graphs: Sequence[str] = GRAPHS,
    smoothing: bool = True,
    clip: bool = False,
    target: str | None = None,
    late_from: float | None = None,
    save_calibration: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Quantise a bundle, measured against itself.

    Args:
        bundle: the source, in fp32, fp16 or bf16.
        out: folder to make; it appears whole or not at all.
        scheme: a name in ``schemes.SCHEMES``.
        calibration: file to take ranges from; without it they are drawn, and kept in
            ``calibration_path(out)`` until the bundle is whole.
        prompts: text file to draw prompts from, one a line; None takes the default ones.
        settings: of the draw.
        exclude: patterns of step graph layers that stay as they are, beside the scheme's own.
        include: patterns of layers to quantise, weights and inputs, although the scheme leaves
            them or their inputs.
        graphs: which of the three to quantise; it must hold the step graph.
        smoothing: whether to smooth, where the scheme gains by it.
        clip: whether input scales may reach to less than the largest magnitude seen.
        target: what it is to run on, checked; None for no check.
        late_from: rows from this time on, 0 noise to 1 data, run the source's step graph, which
            the new bundle then holds as well; None for no such rows.
        save_calibration: file to write the ranges to as well.
        overwrite: replace a bundle that stands there.
        progress: called with the share that is done and the name of the stage.

    Raises:
        UsageError: an argument is wrong, the bundle is quantised already, the scheme does not
            fit it, or the target cannot be written or replaced.
        VerificationError: a graph differs from its source by more than its bound.
    """
    chosen = _including(find_scheme(scheme), include)
    source = _unquantised(bundle)
    base = source.manifest.graphs[_STEP].precision
    check_fits(chosen, base, target)
    _check_graphs(graphs)
    if late_from is not None:
        check_late_time(late_from)
    _check_file(save_calibration)
    prompt_set = _prompts(source, prompts)
    with bundle_folder(out, overwrite=overwrite, sources=(bundle,)) as folder:
        step = read_graph(source.graph_path(_STEP))
        check_graph(step, chosen.transformer)
        layers = linear_layers(step)
        own = default_exclusions(layers, chosen.transformer.exclude)
        left = (own - excluded_layers(layers, include)) | excluded_layers(layers, exclude)
        ranges = None
        if _needs_calibration(chosen, smoothing):
            kept = calibration_path(out)
            drawing = settings or DrawSettings()
            ranges = _ranges(source, prompt_set, drawing, calibration, kept, progress)
            if save_calibration is not None:
                ranges.save(save_calibration)
        done, alphas = _quantise_all(
            source, chosen, ranges, left, graphs, smoothing, clip, progress
        )
        quantised = {name: item.graph for name, item in done.items()}
        checks = measure(
            source,
            quantised,
            chosen,
            prompt_set.texts[1 : 1 + PICTURES],
            stage_of(progress, 0.7, 0.98, "measure"),
            late_from=late_from,
        )
        require_within_bounds(checks, "no bundle was written; see docs/guides/quantize.md")
        record = Quantization(
            scheme=chosen.name,
            base_precision=base,
            source_digest=source.digest,
            calibration_sha256=None if ranges is None else ranges.digest,
            smoothing=alphas,
            graphs={name: item.record for name, item in done.items()},
        )
        late = None if late_from is None else copy_late_graph(source, folder, late_from)
        _write(folder, source, chosen, quantised, record, checks, late)
        progress(1.0, "written")
    # A file that the caller named is the caller's, under whatever name.
    saved = None if save_calibration is None else Path(save_calibration).resolve()
    if calibration is None and saved != calibration_path(out):
        calibration_path(out).unlink(missing_ok=True)
    return Bundle.open(out)


def _unquantised(path: str | Path) -> Bundle:
    source = Bundle.open(path)
    if source.manifest.quantization is not None:
        raise UsageError(
            f"{source.path}: is quantised already ({source.manifest.quantization.scheme}); give the"
            " bundle that minit2i export made"
        )
    return source


def _including(scheme: Scheme, include: Sequence[str]) -> Scheme:
    """The scheme without the weight-only patterns that are asked for whole."""
    light = tuple(item for item in scheme.transformer.weights_only if item not in include)
    step = dataclasses.replace(scheme.transformer, weights_only=light)
    return dataclasses.replace(scheme, transformer=step)


def calibration_path(out: str | Path) -> Path:
    """Where ranges are kept while a bundle is being made, so that a new run need not draw them."""
    target = Path(out).resolve()
    return target.with_name(f"{target.name}.calibration.npz")


def _check_graphs(graphs: Sequence[str]) -> None:
    unknown = [name for name in graphs if name not in GRAPHS]
    if unknown or _STEP not in graphs:
        raise UsageError(
            f"graphs are {', '.join(graphs)}; choose among {', '.join(GRAPHS)}, and {_STEP} always"
        )


def _check_file(path: str | Path | None) -> None:
    """Before hours of calibration rather than after them."""
    if path is None:
        return
    if Path(path).is_dir():
        raise UsageError(f"{path}: is a folder; name a file for the ranges in it")
    if not Path(path).parent.is_dir():
        raise UsageError(f"{path}: its folder is not there; make it, or name another file")


def _prompts(source: Bundle, prompts: str | Path | None) -> PromptSet:
    return default_prompts(source) if prompts is None else read_prompts(Path(prompts), source)


def _needs_calibration(scheme: Scheme, smoothing: bool) -> bool:
    step = scheme.transformer
    return step.needs_scales or (smoothing and step.gains_by_smoothing)


def _ranges(
    source: Bundle,
    prompts: PromptSet,
    settings: DrawSettings,
    given: str | Path | None,
    kept: Path,
    progress: Progress,
) -> Calibration:
    if given is not None:
        ranges = Calibration.load(given)
        _check_source(ranges, source, Path(given))
        return ranges
    if kept.is_file():
        earlier = Calibration.load(kept)
        if earlier.meta == dict(plan(source, prompts, settings).meta):
            return earlier
    ranges = calibrate(source, prompts, settings, stage_of(progress, 0.0, 0.5, "calibrate"))
    ranges.save(kept)
    return ranges


def _check_source(ranges: Calibration, source: Bundle, path: Path) -> None:
    made_for = ranges.meta.get("checkpoint_sha256"), ranges.meta.get("lora_sha256")
    origin = source.manifest.provenance
    if made_for != (origin.checkpoint_sha256, origin.lora_sha256):
        raise UsageError(
            f"{path}: calibrated on checkpoint {str(made_for[0])[:8]}.. but {source.path} is"
            f" {origin.checkpoint_sha256[:8]}..; calibrate this bundle, or give the file of its"
            " checkpoint"
        )


def _quantise_all(
    source: Bundle,
    scheme: Scheme,
    ranges: Calibration | None,
    left: frozenset[str],
    graphs: Sequence[str],
    smoothing: bool,
    clip: bool,
    progress: Progress,
) -> tuple[dict[str, _Quantised], dict[str, float]]:
    done: dict[str, _Quantised] = {}
    alphas: dict[str, float] = {}
    for name in GRAPHS:
        if name not in graphs:
            continue
        graph, part = read_graph(source.graph_path(name)), scheme.of_graph(name)
        exclude = left if name == _STEP else frozenset[str]()
        scales: dict[str, float] = {}
        if name == _STEP and ranges is not None:
            prepared = prepare(
                graph,
                part,
                ranges,
                smoothing=smoothing and part.gains_by_smoothing,
                clip=clip,
                exclude=exclude,
                progress=stage_of(progress, 0.5, 0.65, "smooth and scale"),
            )
            graph, scales, alphas = prepared.graph, dict(prepared.scales), dict(prepared.alphas)
        progress(0.65, f"quantize {name}")
        number = len(linear_layers(graph)) - len(exclude)
        if number < 1:
            raise UsageError("every linear layer is excluded; leave some to quantise")
        done[name] = _Quantised(
            graph=quantize_graph(graph, part, scales, exclude=exclude),
            record=GraphQuantization(
                scheme=part.words, layers=number, excluded=tuple(sorted(exclude))
            ),
        )
    return done, alphas


def _write(
    folder: Path,
    source: Bundle,
    scheme: Scheme,
    graphs: dict[str, Graph],
    record: Quantization,
    checks: Sequence[Check],
    late: StepSwitch | None,
) -> None:
    manifest = source.manifest
    made = set()
    infos = dict(manifest.graphs)
    for name, graph in graphs.items():
        path = Path(infos[name].path)
        write_graph(graph, folder / path.parent)
        made |= {path.as_posix(), f"{path.as_posix()}.data"}
        infos[name] = _info(infos[name], scheme.precision if name == _STEP else "")
    for name in manifest.files:
        if name not in made:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, folder / name)
    tools = {**manifest.provenance.tools, **{name: version(name) for name in _TOOLS}}
    write_manifest(
        folder,
        dataclasses.replace(
            manifest,
            graphs=infos,
            checks=tuple(checks),
            quantization=record,
            switch=late,
            provenance=dataclasses.replace(manifest.provenance, tools=dict(sorted(tools.items()))),
        ),
    )


def _info(info: GraphInfo, precision: str) -> GraphInfo:
    return dataclasses.replace(info, precision=precision or info.precision)
