"""minit2i sensitivity: what the quantisation of each layer costs, and which to leave out."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.cli.support.options import add_bundle, add_json
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.export.quantize.sensitivity.budget import Found
    from minit2i_deploy.export.quantize.sensitivity.results_file import Sensitivity
    from minit2i_deploy.export.quantize.sensitivity.run import SensitivityJob
    from minit2i_deploy.progress import Progress

_MOST: Final = 0.5
_PER_KIND: Final = 10
_SHOWN: Final = 12
_EPILOG: Final = """\
BUNDLE is not yet quantised. One layer of the denoiser at a time is quantised, in
float32 arithmetic on the CPU, and all others stay; the cost is some trajectories
a layer, or two steps a stratum with --estimates-only. An interrupted run goes on
where it stopped, and one with another budget takes the layers' errors from FILE.

--budget leaves out as few layers as it can, those first that cause the most
squared error a weight, until all others together meet it:
  psnr=35     final pictures at least 35 dB from the unquantised ones
  score=0.01  at most 0.01 of the shapes captions lost
The file then goes to minit2i quantize --exclude-from.

examples:
  minit2i sensitivity my-bundle --scheme int8 -o int8.json --plot int8.png
  minit2i sensitivity my-bundle --scheme int8 -o int8.json --budget psnr=35
  minit2i quantize my-bundle my-int8 --scheme int8 --exclude-from int8.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Measure the error that the quantisation of each linear layer alone causes, by stratum of "
        "time, in the estimate of the clean image and in the final state."
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
    _add_measuring(parser)
    _add_budget(parser)
    add_json(parser)


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--calibration", metavar="FILE", type=Path, help=".npz file of ranges; default: measure"
    )
    group.add_argument(
        "--prompts", metavar="FILE", type=Path, help="text file of prompts, one a line"
    )
    group.add_argument(
        "--samples", metavar="N", type=int, default=4, help="pictures measured on (default 4)"
    )
    group.add_argument(
        "--strata", metavar="N", type=int, default=4, help="parts of the time (default 4)"
    )
    group.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of prompts and noise (default 0)"
    )
    group.add_argument("--preset", metavar="NAME", help="default: the one with the fewest rows")
    group.add_argument("--no-smoothing", action="store_true", help="quantise weights as they are")
    group.add_argument(
        "--estimates-only", action="store_true", help="leave out final states: quicker by far"
    )
    group.add_argument(
        "--threads", metavar="N", type=int, default=0, help="0 (default) is one for each core"
    )


def _add_budget(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("exclusion")
    group.add_argument("--budget", metavar="KIND=LIMIT", help="psnr=DECIBELS or score=SHARE")
    group.add_argument(
        "--most",
        metavar="SHARE",
        type=float,
        help=f"of the layers' weights that may be left out (default {_MOST})",
    )
    group.add_argument(
        "--captions",
        metavar="N",
        type=int,
        help=f"of each of the six kinds, for a score (default {_PER_KIND})",
    )


def run(options: argparse.Namespace) -> None:
    """Measure, search, write and print."""
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.export.quantize.sensitivity.results_file import partial_path
    from minit2i_deploy.progress import ProgressLine

    job = _job(options)
    partial = partial_path(options.output)
    try:
        with ProgressLine("sensitivity") as line:
            found = _measure(options, job, line)
    except KeyboardInterrupt:
        if partial.exists():
            sys.stderr.write(f"minit2i: kept in {partial}; the same command goes on from there\n")
        raise
    if options.plot is not None:
        from minit2i_deploy.export.quantize.sensitivity.heat_map import plot_heat_map

        plot_heat_map(found, options.plot)
    values = found.to_dict()
    output_paths.write_json(options.output, values)
    partial.unlink(missing_ok=True)
    print(json_text(values) if options.json else _text(found, options))


def _job(options: argparse.Namespace) -> SensitivityJob:
    """The options as a job, after every check that needs no bundle."""
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.errors import require
    from minit2i_deploy.export.quantize import find_scheme
    from minit2i_deploy.export.quantize.sensitivity.budget import SCORE, Budget
    from minit2i_deploy.export.quantize.sensitivity.layers import SensitivitySettings
    from minit2i_deploy.export.quantize.sensitivity.run import SensitivityJob

    scheme = find_scheme(options.scheme)
    output_paths.output_file(options.output, ".json")
    if options.plot is not None:
        # Known before minutes of measuring, not after.
        require("matplotlib.figure", "eval")
        output_paths.output_file(options.plot, ".png")
    if options.threads < 0:
        raise UsageError(f"--threads is {options.threads}, but 0 (all cores) or more is needed")
    budget = None if options.budget is None else Budget.parse(options.budget)
    if budget is None and options.most is not None:
        raise UsageError("--most came without --budget; add one")
    if options.captions is not None and (budget is None or budget.kind != SCORE):
        raise UsageError("--captions came without --budget score=SHARE; add it")
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
        most=_MOST if options.most is None else options.most,
        per_kind=_PER_KIND if options.captions is None else options.captions,
        threads=options.threads,
    )


def _measure(options: argparse.Namespace, job: SensitivityJob, progress: Progress) -> Sensitivity:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.export.quantize import (
        Calibration,
        DrawSettings,
        calibrate,
        default_prompts,
        read_prompts,
    )
    from minit2i_deploy.export.quantize.sensitivity.run import run_sensitivity

    bundle = Bundle.open(options.bundle)
    if options.prompts is None:
        prompts = default_prompts(bundle)
    else:
        prompts = read_prompts(options.prompts, bundle)
    if options.calibration is None:
        calibration = calibrate(bundle, prompts, DrawSettings(seed=options.seed), progress)
    else:
        calibration = Calibration.load(options.calibration)
    return run_sensitivity(bundle, job, prompts, calibration, options.output, progress)


def _text(found: Sensitivity, options: argparse.Namespace) -> str:
    from minit2i_deploy.cli.support.formatting import columns
    from minit2i_deploy.export.quantize.sensitivity.budget import ranked

    order = ranked(found.layers)
    worst = [
        (
            layer.name,
            f"{layer.num_weights}",
            *(f"{error:.2e}" for error in layer.estimate),
            "-" if layer.whole is None else f"{layer.whole:.2e}",
        )
        for layer in order[:_SHOWN]
    ]
    times = tuple(f"t {begin:.2f}-" for begin in found.times)
    parts = [
        f"{len(order)} layers; those with the most squared error a weight, each alone:\n"
        + columns(worst, head=("layer", "weights", *times, "final"))
    ]
    if found.splits:
        parts.append("all layers, for a part of the time; PSNR in dB:\n" + _splits_text(found))
    if found.found is not None:
        parts.append(_budget_text(found.found, len(order)))
    return "\n\n".join([*parts, str(options.output)])


def _splits_text(found: Sensitivity) -> str:
    from minit2i_deploy.cli.support.formatting import columns

    rows = []
    for split in found.splits:
        both = (split.early_quantised.psnr_db, split.late_quantised.psnr_db)
        rows.append((f"{split.t:.2f}", *("equal" if p == math.inf else f"{p:.2f}" for p in both)))
    return columns(rows, head=("t", "quantised before t", "quantised from t on"))


def _budget_text(found: Found, num_layers: int) -> str:
    unit = " dB" if found.budget.kind == "psnr" else " of the captions lost"
    trials = ", ".join(f"{one.num_excluded}: {one.value:.4g}" for one in found.trials)
    lines = [
        f"budget {found.budget.kind}={found.budget.limit:g}: {found.value:.4g}{unit} with "
        f"{len(found.excluded)} of {num_layers} layers left out (tried {trials})",
        *found.excluded,
    ]
    return "\n".join(lines)
