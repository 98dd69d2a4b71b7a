"""Sensitivity from a bundle to a result: calibrate, prepare, measure layers, meet a budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.calibration.range_collection import (
    check_origin,
    shortest_preset,
)
from minit2i_deploy.export.quantize.calibration.ranges import Calibration
from minit2i_deploy.export.quantize.graph.linear_layers import match_any
from minit2i_deploy.export.quantize.graph.quantizable_graph import QuantizableGraph
from minit2i_deploy.export.quantize.options import QuantizeOptions
from minit2i_deploy.export.quantize.rounding.layers import NEAREST, round_layers
from minit2i_deploy.export.quantize.rounding.matrix import QuantizedWeight
from minit2i_deploy.export.quantize.schemes import Scheme
from minit2i_deploy.export.quantize.sensitivity.budget import (
    PSNR,
    Budget,
    Selection,
    check_most,
    check_per_kind,
    psnr_of,
    rank_layers,
    score_loss_of,
    select_layers,
)
from minit2i_deploy.export.quantize.sensitivity.budget_curve import BudgetCurve, measure_curve
from minit2i_deploy.export.quantize.sensitivity.layer_errors import (
    LayerError,
    SensitivityMeter,
    SensitivitySettings,
    Subject,
    draw_images,
    measure_layers,
)
from minit2i_deploy.export.quantize.sensitivity.results_file import (
    Sensitivity,
    load_known,
    partial_path,
    save_partial,
)
from minit2i_deploy.export.quantize.smoothing_search import smooth_and_scale
from minit2i_deploy.progress import Progress, no_progress, stage_of


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityJob:
    """Options of ``run_sensitivity``.

    Args:
        scheme: what the layers are to become.
        settings: how much is measured.
        preset: table and guidance; None takes the preset with the fewest rows.
        smoothing: whether weights are smoothed first, as in quantization.
        budget: for the selection of layers to exclude; None selects none.
        most: share of the layers' weights that may be excluded.
        per_kind: shapes captions of each kind, for a budget of score.
        curve_points: of the curve of error over bytes, which has the budget's kind; 0 for none.
        threads: of onnxruntime; 0 takes one per core.

    Raises:
        UsageError: most is outside 0 to 1, per_kind is below 1, or the scheme is of the text
            encoder alone.
    """

    scheme: Scheme
    settings: SensitivitySettings = field(default_factory=SensitivitySettings)
    preset: str | None = None
    smoothing: bool = True
    budget: Budget | None = None
    most: float = 0.5
    per_kind: int = 10
    curve_points: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        # Before minutes of measuring rather than after them.
        if self.scheme.text_only:
            raise UsageError(
                f"scheme {self.scheme.name} quantizes the text encoder alone, but sensitivity is "
                "measured of the step graph's layers; choose another scheme"
            )
        check_most(self.most)
        check_per_kind(self.per_kind)


def run_sensitivity(
    bundle: Bundle,
    job: SensitivityJob,
    prompts: PromptSet,
    calibration: Calibration,
    output: Path,
    progress: Progress = no_progress,
) -> Sensitivity:
    """Measure every layer, all of them together by time, and what a budget requires.

    Args:
        bundle: not quantized, in any precision; the arithmetic is float32.
        job: options.
        prompts: to draw from.
        calibration: of the same checkpoint, with as many activations as the rounding needs.
        output: file that the result will be written to. Layers that it has already, from the same
            settings, are not measured again. Meanwhile results are stored beside it, in
            ``partial_path``, which the caller removes once the result is written.
        progress: called with the share of a stage that is done and its name.

    Raises:
        UsageError: a bundle, calibration, table or partial file that does not fit.
        VerificationError: no exclusion meets the budget; the text has the best.
        RuntimeFailure: the engine failed.
    """
    _check_fits(bundle, job, calibration)
    about = _about(bundle, job, prompts, calibration)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode("utf-8")).hexdigest()
    known, partial = load_known(output, digest), partial_path(output)
    meter = _meter(bundle, job, prompts, calibration, progress)
    layers = measure_layers(
        meter, known, lambda errors: save_partial(partial, digest, errors), progress
    )
    progress(1.0, "parts of the time")
    splits = meter.splits() if job.settings.finals else ()
    curve, selection = _trade(meter, layers, job, progress)
    return Sensitivity(
        run=digest,
        about=about,
        times=meter.times,
        layers=layers,
        splits=splits,
        selection=selection,
        curve=curve,
    )


def _check_fits(bundle: Bundle, job: SensitivityJob, calibration: Calibration) -> None:
    quantization = bundle.manifest.quantization
    if quantization is not None:
        raise UsageError(
            f"{bundle.path}: is quantized already ({quantization.scheme}); give the bundle it was"
            " made from"
        )
    check_origin(calibration, bundle)
    actual = min(len(values) for values in calibration.activations.values())
    least = QuantizeOptions(scheme=job.scheme.name).least_activations
    if actual < least:
        raise UsageError(
            f"the calibration has {actual} activations of each value, but the weights of scheme"
            f" {job.scheme.name} are rounded by {least} or more; calibrate again"
        )


def _about(
    bundle: Bundle, job: SensitivityJob, prompts: PromptSet, calibration: Calibration
) -> dict[str, Any]:
    """What the layers' errors depend on; a run with other values is another run."""
    preset = job.preset or shortest_preset(bundle)
    table, guidance = bundle.preset(preset)
    texts, seeds = draw_images(prompts, job.settings)
    return {
        "bundle": bundle.digest,
        "checkpoint_sha256": bundle.manifest.provenance.checkpoint_sha256,
        "lora_sha256": bundle.manifest.provenance.lora_sha256,
        "scheme": job.scheme.name,
        "step_scheme": job.scheme.transformer.description,
        "rounding": job.scheme.rounding,
        "smoothing": job.smoothing,
        "calibration": calibration.digest,
        "preset": preset,
        "table": table.name,
        "guidance": guidance,
        "settings": asdict(job.settings),
        "prompts": list(texts),
        "noise_seeds": list(seeds),
    }


def _meter(
    bundle: Bundle,
    job: SensitivityJob,
    prompts: PromptSet,
    calibration: Calibration,
    progress: Progress,
) -> SensitivityMeter:
    step, scheme = QuantizableGraph.read(bundle.graph_path("transformer")), job.scheme.transformer
    exclude = match_any(step.linears, scheme.exclude)
    scaled = smooth_and_scale(
        step,
        scheme,
        calibration,
        smoothing=job.smoothing and scheme.gains_by_smoothing,
        exclude=exclude,
        progress=stage_of(progress, 0.0, 1.0, "smoothing and scales"),
    )
    weights: Mapping[str, QuantizedWeight] = {}
    if job.scheme.rounding != NEAREST:
        weights = round_layers(
            scaled.step,
            scheme,
            calibration,
            rounding=job.scheme.rounding,
            exclude=exclude,
            powers=scaled.powers,
            progress=stage_of(progress, 0.0, 1.0, "round weights"),
        ).weights
    subject = Subject(
        bundle=bundle, scheme=scheme, scaled=scaled, weights=weights, threads=job.threads
    )
    table, guidance = bundle.preset(job.preset or shortest_preset(bundle))
    return SensitivityMeter(subject, prompts, table, guidance, job.settings)


def _trade(
    meter: SensitivityMeter,
    layers: Sequence[LayerError],
    job: SensitivityJob,
    progress: Progress,
) -> tuple[BudgetCurve | None, Selection | None]:
    """The curve and the layers to exclude, where the job has such."""
    if job.budget is None and not job.curve_points:
        return None, None
    kind = PSNR if job.budget is None else job.budget.kind
    if kind == PSNR:
        measure = psnr_of(meter)
    else:
        captions = stage_of(progress, 0.0, 1.0, "captions")
        measure = score_loss_of(meter, job.per_kind, captions)
    value_of, order = _stored(measure), rank_layers(layers)
    curve = selection = None
    if job.curve_points:

        def bytes_of(exclude: Collection[str]) -> int:
            return meter.subject.quantized(exclude).num_bytes

        curve = measure_curve(order, job.curve_points, kind, value_of, bytes_of, progress)
    if job.budget is not None:
        selection = select_layers(order, job.budget, job.most, value_of, progress)
    return curve, selection


def _stored(measure: Callable[[Collection[str]], float]) -> Callable[[Collection[str]], float]:
    """The same measure, which curve and search share: each point costs complete trajectories."""
    values: dict[frozenset[str], float] = {}

    def value_of(exclude: Collection[str]) -> float:
        key = frozenset(exclude)
        if key not in values:
            values[key] = measure(key)
        return values[key]

    return value_of
