"""minit2i sensitivity: what quantizing each layer costs, and which layers to exclude."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.limits import check_least
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_bundle,
    add_json,
    integer,
    number,
)
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.export.quantize.sensitivity.budget import Selection
    from minit2i_deploy.export.quantize.sensitivity.budget_curve import BudgetCurve
    from minit2i_deploy.export.quantize.sensitivity.results_file import Sensitivity
    from minit2i_deploy.export.quantize.sensitivity.sensitivity_run import SensitivityJob
    from minit2i_deploy.progress import Progress

_MAX_SHARE: Final = 0.5
_PER_KIND: Final = 10
_CURVE_POINTS: Final = 9
_MAX_LAYERS_PRINTED: Final = 12
_EPILOG: Final = """\
BUNDLE is not quantized yet. One layer of the denoiser at a time is quantized, in
float32 arithmetic on the CPU; that takes some trajectories per layer, or two steps
per stratum with --estimates-only. The same command resumes an interrupted run, and
one with another budget reads the layers' errors from FILE.

--budget excludes as few layers as possible, those with the most squared error per
weight first, until all others together meet it:
  psnr=35     final images with a PSNR of at least 35 dB to the unquantized ones
  score=0.01  at most 0.01 of the shapes captions lost
The file is then for minit2i quantize --exclude-from. --curve measures the same
value, by default the PSNR, from all layers quantized to all but one excluded.

examples:
  minit2i sensitivity my-bundle --scheme int8 -o int8.json --plot int8.png
  minit2i sensitivity my-bundle --scheme int8 -o int8.json --budget psnr=35 \\
      --curve curve.png
  minit2i quantize my-bundle my-int8 --scheme int8 --exclude-from int8.json
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityOptions:
    """Options of minit2i sensitivity; None where one was not given."""

    bundle: str
    output: Path
    scheme: str
    plot: Path | None
    curve: Path | None
    calibration: Path | None
    prompts: Path | None
    samples: int
    strata: int
    seed: int
    preset: str | None
    no_smoothing: bool
    estimates_only: bool
    threads: int
    budget: str | None
    most: float | None
    captions: int | None
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Measure the error that quantizing each linear layer alone causes, by stratum of time, in "
        "the estimate of the clean image and in the final state."
    )
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, required=True, help=".json file to write"
    )
    parser.add_argument(
        "--scheme", metavar="NAME", default="int8", help="of minit2i quantize (default int8)"
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help=".png file for the heat map")
    parser.add_argument(
        "--curve",
        metavar="FILE",
        type=Path,
        help=f".png file for error over bytes at {_CURVE_POINTS} numbers of excluded layers",
    )
    _add_measuring(parser)
    _add_budget(parser)
    add_json(parser)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--calibration", metavar="FILE", type=Path, help=".npz file of ranges; default: measure"
    )
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help=".txt file with one prompt per line; - reads standard input",
    )
    group.add_argument(
        "--samples", metavar="N", type=integer, default=4, help="images to measure on (default 4)"
    )
    group.add_argument(
        "--strata", metavar="N", type=integer, default=4, help="intervals of time (default 4)"
    )
    group.add_argument(
        "--seed", metavar="N", type=integer, default=0, help="of prompts and noise (default 0)"
    )
    group.add_argument("--preset", metavar="NAME", help="default: the one with the fewest rows")
    group.add_argument(
        "--no-smoothing", action="store_true", help="do not smooth the ranges of channels"
    )
    group.add_argument(
        "--estimates-only", action="store_true", help="skip final states, which is much faster"
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=integer,
        default=0,
        help="CPU threads; 0 (default) is one per core",
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("exclusion")
    group.add_argument("--budget", metavar="KIND=LIMIT", help="psnr=DECIBELS or score=SHARE")
    group.add_argument(
        "--most",
        metavar="SHARE",
        type=number,
        help=f"of the layers' weights that may be excluded (default {_MAX_SHARE})",
    )
    group.add_argument(
        "--captions",
        metavar="N",
        type=integer,
        help=f"captions of each of the six kinds, for a score (default {_PER_KIND})",
    )


def run(options: SensitivityOptions) -> None:
    """Measure, search, write and print."""
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.io.lock import output_lock

    job = _job(options)
    with output_lock(options.output):
        result = _measure_and_write(options, job)
    print(json_text(result.to_dict()) if options.json else _text(result, options.output))


def _measure_and_write(options: SensitivityOptions, job: SensitivityJob) -> Sensitivity:
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.export.quantize.sensitivity.results_file import partial_path
    from minit2i_deploy.progress import ProgressLine

    partial = partial_path(options.output)
    try:
        with ProgressLine("sensitivity") as line:
            result = _measure(options, job, line)
    except KeyboardInterrupt as interrupt:
        if not partial.exists():
            raise
        raise KeyboardInterrupt(
            f"results so far are in {partial}; the same command resumes"
        ) from interrupt
    if options.plot is not None:
        from minit2i_deploy.export.quantize.sensitivity.heat_map import plot_heat_map

        plot_heat_map(result, options.plot)
    if options.curve is not None and result.curve is not None:
        from minit2i_deploy.export.quantize.sensitivity.curve_plot import plot_curve

        plot_curve(result, result.curve, options.curve)
    output_paths.write_json(options.output, result.to_dict())
    partial.unlink(missing_ok=True)
    return result


def _job(options: SensitivityOptions) -> SensitivityJob:
    """The options as a job, after every check that needs no bundle."""
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.errors import require
    from minit2i_deploy.export.quantize import find_scheme
    from minit2i_deploy.export.quantize.sensitivity.budget import SCORE, Budget
    from minit2i_deploy.export.quantize.sensitivity.layer_errors import SensitivitySettings
    from minit2i_deploy.export.quantize.sensitivity.sensitivity_run import SensitivityJob

    scheme = find_scheme(options.scheme)
    output_paths.output_file(options.output, ".json")
    for image in filter(None, (options.plot, options.curve)):
        # Known before minutes of measuring, not after.
        require("matplotlib.figure", "eval")
        output_paths.output_file(image, ".png")
    check_least("--threads", options.threads, 0)
    budget = None if options.budget is None else Budget.parse(options.budget)
    if budget is None and options.most is not None:
        raise UsageError("--most requires --budget")
    if options.captions is not None and (budget is None or budget.kind != SCORE):
        raise UsageError("--captions requires --budget score=SHARE")
    return SensitivityJob(
        scheme=scheme,
        settings=SensitivitySettings(
            samples=options.samples,
            strata=options.strata,
            seed=options.seed,
            finals=not options.estimates_only,
        ),
        preset=options.preset,
        smoothing=not options.no_smoothing,
        budget=budget,
        most=_MAX_SHARE if options.most is None else options.most,
        per_kind=_PER_KIND if options.captions is None else options.captions,
        curve_points=0 if options.curve is None else _CURVE_POINTS,
        threads=options.threads,
    )


def _measure(options: SensitivityOptions, job: SensitivityJob, progress: Progress) -> Sensitivity:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.standard_input import prompts_file
    from minit2i_deploy.export.quantize import (
        Calibration,
        DrawSettings,
        QuantizeOptions,
        calibrate,
        default_prompts,
        read_prompts,
    )
    from minit2i_deploy.export.quantize.sensitivity.sensitivity_run import run_sensitivity

    bundle = Bundle.open(options.bundle)
    with prompts_file(options.prompts) as file:
        prompts = default_prompts(bundle) if file is None else read_prompts(file, bundle)
    if options.calibration is None:
        draw = QuantizeOptions(scheme=job.scheme.name, draw=DrawSettings(seed=options.seed))
        calibration = calibrate(bundle, prompts, draw.full_draw, progress)
    else:
        calibration = Calibration.load(options.calibration)
    return run_sensitivity(bundle, job, prompts, calibration, options.output, progress)


def _text(result: Sensitivity, file: Path) -> str:
    from minit2i_deploy.cli.support.formatting import columns
    from minit2i_deploy.export.quantize.sensitivity.budget import rank_layers

    order = rank_layers(result.layers)
    worst = [
        (
            layer.name,
            f"{layer.num_weights}",
            *(f"{error:.2e}" for error in layer.estimate),
            "-" if layer.whole is None else f"{layer.whole:.2e}",
        )
        for layer in order[:_MAX_LAYERS_PRINTED]
    ]
    times = tuple(f"t {begin:.2f}-" for begin in result.times)
    parts = [
        f"{len(order)} layers; those with the most squared error per weight, each alone:\n"
        + columns(worst, head=("layer", "weights", *times, "final"))
    ]
    if result.splits:
        parts.append("all layers, for a part of the time; PSNR in dB:\n" + _splits_text(result))
    if result.curve is not None:
        unit = "PSNR dB" if result.curve.kind == "psnr" else "captions lost"
        parts.append(columns(_curve_cells(result.curve), head=("excluded", "MB", unit)))
    if result.selection is not None:
        parts.append(_budget_text(result.selection, len(order)))
    return "\n\n".join([*parts, str(file)])


def _splits_text(result: Sensitivity) -> str:
    from minit2i_deploy.cli.support.formatting import columns

    rows = []
    for split in result.splits:
        both = (split.quantized_before.psnr_db, split.quantized_after.psnr_db)
        rows.append((f"{split.t:.2f}", *("equal" if p == math.inf else f"{p:.2f}" for p in both)))
    return columns(rows, head=("t", "quantized before t", "quantized from t on"))


def _curve_cells(curve: BudgetCurve) -> list[tuple[str, str, str]]:
    return [
        (f"{one.num_excluded}", f"{one.num_bytes / 1e6:.2f}", f"{one.value:.4g}")
        for one in curve.points
    ]


def _budget_text(search: Selection, num_layers: int) -> str:
    unit = " dB" if search.budget.kind == "psnr" else " of the captions lost"
    trials = ", ".join(f"{one.num_excluded}: {one.value:.4g}" for one in search.trials)
    lines = [
        f"budget {search.budget.kind}={search.budget.limit:g}: {search.value:.4g}{unit} with "
        f"{len(search.excluded)} of {num_layers} layers excluded (tried {trials})",
        *search.excluded,
    ]
    return "\n".join(lines)
