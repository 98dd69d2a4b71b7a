"""Sensitivity from a bundle to a result: calibrate, prepare, measure layers, meet a budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.export.quantize.calibration.prompts import PromptSet
from minit2i_deploy.export.quantize.calibration.ranges import Calibration
from minit2i_deploy.export.quantize.graph.linear_layers import default_exclusions, linear_layers
from minit2i_deploy.export.quantize.graph.model_graph import read_graph
from minit2i_deploy.export.quantize.schemes import Scheme
from minit2i_deploy.export.quantize.sensitivity.budget import (
    PSNR,
    Budget,
    Found,
    check_most,
    check_per_kind,
    psnr_of,
    ranked,
    score_loss_of,
    search,
)
from minit2i_deploy.export.quantize.sensitivity.layers import (
    Laboratory,
    LayerError,
    SensitivitySettings,
    measure_layers,
)
from minit2i_deploy.export.quantize.sensitivity.results_file import (
    Sensitivity,
    load_known,
    partial_path,
    save_partial,
)
from minit2i_deploy.export.quantize.smoothing_search import prepare
from minit2i_deploy.progress import Progress, no_progress, stage_of


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityJob:
    """What is asked for.

    Args:
        scheme: what the layers are to become.
        settings: how much is measured.
        preset: table and guidance; None takes the preset with the fewest rows.
        smoothing: whether weights are smoothed first, as they would be.
        budget: what excluded layers must achieve; None excludes none.
        most: share of the layers' weights that may be excluded.
        per_kind: shapes captions of each kind, for a budget of score.
        threads: of onnxruntime; 0 takes one a core.

    Raises:
        UsageError: most is outside 0 to 1, or per_kind is below 1.
    """

    scheme: Scheme
    settings: SensitivitySettings = field(default_factory=SensitivitySettings)
    preset: str | None = None
    smoothing: bool = True
    budget: Budget | None = None
    most: float = 0.5
    per_kind: int = 10
    threads: int = 0

    def __post_init__(self) -> None:
        # Known before minutes of measuring, not after.
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
    """Measure every layer, all of them together by time, and what a budget needs.

    Args:
        bundle: not quantised, in any precision; the arithmetic is float32.
        job: what is asked for.
        prompts: to draw from.
        calibration: of the same checkpoint.
        output: file that the result will go to. Layers that it holds already, from the same
            settings, are not measured again; what is measured is kept beside it meanwhile, in
            ``partial_path``, which the caller removes once the result is written.
        progress: called with the share of a stage that is done and its name.

    Raises:
        UsageError: a bundle, calibration, table or partial file that does not fit.
        VerificationError: no exclusion meets the budget; the best is told.
        RuntimeFailure: the engine failed.
    """
    _check_fits(bundle, calibration)
    about = _about(bundle, job, calibration)
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode("utf-8")).hexdigest()
    known, partial = load_known(output, digest), partial_path(output)
    laboratory = _laboratory(bundle, job, prompts, calibration, progress)
    layers = measure_layers(
        laboratory, known, lambda found: save_partial(partial, digest, found), progress
    )
    progress(1.0, "times apart")
    splits = laboratory.splits() if job.settings.finals else ()
    found = None if job.budget is None else _search(laboratory, layers, job, progress)
    words = {"prompts": list(laboratory.prompts), "noise_seeds": list(laboratory.seeds)}
    return Sensitivity(
        run=digest,
        about=about | words,
        times=laboratory.times,
        layers=layers,
        splits=splits,
        found=found,
    )


def _check_fits(bundle: Bundle, calibration: Calibration) -> None:
    quantized = bundle.manifest.quantization
    if quantized is not None:
        raise UsageError(
            f"{bundle.path}: is quantised already ({quantized.scheme}); name the bundle it was"
            " made from"
        )
    wanted = bundle.manifest.provenance.checkpoint_sha256
    found = calibration.meta.get("checkpoint_sha256")
    if found != wanted:
        raise UsageError(
            f"the calibration is of checkpoint {str(found)[:12]}, but the bundle is of"
            f" {wanted[:12]}; calibrate this bundle"
        )


def _preset(bundle: Bundle, name: str | None) -> str:
    """The one asked for, or that with the fewest rows: a layer costs whole trajectories."""
    if name is not None:
        return name
    presets = bundle.manifest.presets
    return min(sorted(presets), key=lambda each: len(bundle.table(presets[each].table)))


def _about(bundle: Bundle, job: SensitivityJob, calibration: Calibration) -> dict[str, Any]:
    """Of what the layers are measured; a run with other values is another run."""
    preset = _preset(bundle, job.preset)
    table, guidance = bundle.preset(preset)
    return {
        "bundle": bundle.digest,
        "checkpoint_sha256": bundle.manifest.provenance.checkpoint_sha256,
        "scheme": job.scheme.name,
        "smoothing": job.smoothing,
        "calibration": calibration.digest,
        "preset": preset,
        "table": table.name,
        "guidance": guidance,
        "settings": asdict(job.settings),
    }


def _laboratory(
    bundle: Bundle,
    job: SensitivityJob,
    prompts: PromptSet,
    calibration: Calibration,
    progress: Progress,
) -> Laboratory:
    graph, part = read_graph(bundle.graph_path("transformer")), job.scheme.transformer
    prepared = prepare(
        graph,
        part,
        calibration,
        smoothing=job.smoothing and part.gains_by_smoothing,
        exclude=default_exclusions(linear_layers(graph), part.exclude),
        progress=stage_of(progress, 0.0, 1.0, "smoothing and scales"),
    )
    table, guidance = bundle.preset(_preset(bundle, job.preset))
    return Laboratory(
        bundle, job.scheme, prepared, prompts, table, guidance, job.settings, job.threads
    )


def _search(
    laboratory: Laboratory, layers: Sequence[LayerError], job: SensitivityJob, progress: Progress
) -> Found:
    assert job.budget is not None
    if job.budget.kind == PSNR:
        value_of = psnr_of(laboratory)
    else:
        captions = stage_of(progress, 0.0, 1.0, "captions")
        value_of = score_loss_of(laboratory, job.per_kind, captions)
    return search(ranked(layers), job.budget, job.most, value_of, progress)
