"""The sampling study: what solvers, steps and guidance settings cost and bring, on shapes.

    python benchmarks/sampling_study.py my-bundle study --per-kind 50

Five parts, each a report of the quality meter with curves:

    solvers    solvers and steps against the reference, with distances to a fine grid
    guidance   scales 1 to 8 at one table
    interval   guidance in a part of the trajectory
    rescale    guidance rescale at a high scale
    clip       clipped estimates at the usual and at a high scale

It says what it will cost before it starts, and each part is written when it is done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.output_paths import create_folder, write_json
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.errors import Minit2iError, UsageError, require
from minit2i_deploy.evaluation.quality import (
    Candidate,
    MeterReport,
    MeterSettings,
    count_evaluations,
    measure_candidates,
    parse_table,
)
from minit2i_deploy.evaluation.quality.fine_reference import end_floor
from minit2i_deploy.evaluation.quality.plots import plot_settings, write_plots
from minit2i_deploy.evaluation.shapes import held_out_captions
from minit2i_deploy.generate import generate
from minit2i_deploy.progress import ProgressLine
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.guidance import adjust_guidance
from minit2i_deploy.solvers.table import Table, solver_table

SOLVERS: Final = (
    "euler:100", "euler:10", "euler:20", "heun:10", "ab2:10", "ab2:20", "ab2:10:shift=0.5",
    "dpmpp2m:5", "dpmpp2m:8", "dpmpp2m:10", "dpmpp2m:15", "dpmpp2m:20", "dpmpp2m:30",
    "dpmpp2m:5:shift=0.5", "dpmpp2m:8:shift=0.5", "dpmpp2m:10:shift=0.5", "dpmpp2m:15:shift=0.5",
    "dpmpp2m:20:shift=0.5", "dpmpp2m:10:shift=0.3", "dpmpp2m:10:shift=2",
)  # fmt: skip
SCALES: Final = (1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
INTERVALS: Final = ((0.0, 1.0), (0.0, 0.8), (0.0, 0.5), (0.1, 1.0), (0.2, 1.0), (0.2, 0.8))
RESCALES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
CLIPS: Final = (0.0, 1.0)
_TRIAL_ROWS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Candidates that are measured together; ``labels`` are the values of its setting."""

    name: str
    candidates: tuple[Candidate, ...]
    settings: MeterSettings
    labels: tuple[str, ...] | None = None

    @property
    def num_evaluations(self) -> int:
        """What it will cost."""
        return count_evaluations(self.candidates, self.settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    try:
        run(options)
    except Minit2iError as error:
        sys.stderr.write(f"sampling_study: error: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    return 0


def run(options: argparse.Namespace) -> None:
    """Plan, say the cost, then measure and write part by part."""
    require("matplotlib.figure", "eval")
    bundle = Bundle.open(options.bundle)
    if options.guidance is None:
        options.guidance = bundle.preset()[1]
    parts = [PARTS[name](bundle, options) for name in options.parts]
    folder = create_folder(options.output)
    total = sum(part.num_evaluations for part in parts)
    with open_runtime(bundle, options.runtime) as runtime:
        rate = evaluations_per_second(bundle, runtime, options.batch)
        print(
            f"{total} evaluations for {6 * options.per_kind} captions; at {rate:.0f} a second, "
            f"tried in batches of {options.batch}, {total / rate / 60:.1f} minutes"
        )
        if options.dry_run:
            return
        for part in parts:
            began = time.perf_counter()
            with ProgressLine(part.name) as progress:
                report = measure_candidates(
                    bundle, runtime, part.candidates, part.settings, progress
                )
            print(f"\n{part.name}  ({time.perf_counter() - began:.0f} s)\n{report.to_table()}")
            write(part, report, folder)


def write(part: Part, report: MeterReport, folder: Path) -> None:
    """One part's report and curves, under names that begin with the part's."""
    write_json(folder / f"{part.name}.json", report.to_dict())
    if part.labels is not None:
        plot_settings(report.outcomes, part.labels, part.name, folder / f"{part.name}.png")
        return
    for path in write_plots(report, folder):
        path.replace(folder / f"{part.name}-{path.name}")


def evaluations_per_second(bundle: Bundle, runtime: Runtime, batch: int) -> float:
    """How fast the denoiser runs, two branches and a complete batch at once."""
    table = solver_table("euler", steps=_TRIAL_ROWS)
    captions = [caption for _, caption in held_out_captions(batch, 0)][:batch]
    # The first run also pays for what the engine sets up.
    results = [generate(bundle, runtime, captions, table=table, guidance=2.0) for _ in range(2)]
    return 2 * batch * _TRIAL_ROWS / results[-1].timings["steps"]


def _solvers(bundle: Bundle, options: argparse.Namespace) -> Part:
    # The first is the reference with its floor; what is to take its place lands.
    tables = [parse_table(bundle, spec) for spec in SOLVERS]
    floors = [table.name for table in tables[1:] if end_floor(table)]
    if floors:
        raise UsageError(f"{bundle.path}: {floors[0]} does not land; add a_min=land to SOLVERS")
    return Part(
        name="solvers",
        candidates=tuple(
            Candidate(name=table.name, table=table, guidance=options.guidance) for table in tables
        ),
        settings=_settings(options, options.reference_steps),
    )


def _guidance(bundle: Bundle, options: argparse.Namespace) -> Part:
    table = parse_table(bundle, options.table)
    return _part(options, "guidance", [(f"{scale:g}", table, scale) for scale in SCALES])


def _interval(bundle: Bundle, options: argparse.Namespace) -> Part:
    table = parse_table(bundle, options.table)
    rows = [
        (f"{interval[0]:g}-{interval[1]:g}", adjust_guidance(table, interval=interval), scale)
        for scale in _scales(options)
        for interval in INTERVALS
    ]
    return _part(options, "interval", rows)


def _rescale(bundle: Bundle, options: argparse.Namespace) -> Part:
    table = parse_table(bundle, options.table)
    rows = [
        (f"{rescale:g}", adjust_guidance(table, rescale=rescale), options.high_guidance)
        for rescale in RESCALES
    ]
    return _part(options, "rescale", rows)


def _clip(bundle: Bundle, options: argparse.Namespace) -> Part:
    table = parse_table(bundle, options.table)
    rows = [
        (f"{clip:g}", adjust_guidance(table, clip=clip), scale)
        for scale in _scales(options)
        for clip in CLIPS
    ]
    return _part(options, "clip", rows)


def _scales(options: argparse.Namespace) -> tuple[float, float]:
    return options.guidance, options.high_guidance


def _part(options: argparse.Namespace, name: str, rows: Sequence[tuple[str, Table, float]]) -> Part:
    """A part of one setting: its value, table and guidance scale, the first the baseline."""
    scales = {scale for _, _, scale in rows}
    shared = len(scales) > 1 and name != "guidance"
    return Part(
        name=name,
        candidates=tuple(
            Candidate(name=f"{table.name}@{scale:g}", table=table, guidance=scale)
            for _, table, scale in rows
        ),
        settings=_settings(options, 0),
        labels=tuple(f"{label}\ng {scale:g}" if shared else label for label, _, scale in rows),
    )


def _settings(options: argparse.Namespace, reference_steps: int) -> MeterSettings:
    return MeterSettings(
        per_kind=options.per_kind,
        seed=options.seed,
        batch=options.batch,
        reference_steps=reference_steps,
        reference_per_kind=options.reference_per_kind,
    )


PARTS: Final[dict[str, Callable[[Bundle, argparse.Namespace], Part]]] = {
    "solvers": _solvers,
    "guidance": _guidance,
    "interval": _interval,
    "rescale": _rescale,
    "clip": _clip,
}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure solvers, steps and guidance settings on the shapes data."
    )
    parser.add_argument("bundle", help="folder of a base model's bundle, such as the demo's")
    parser.add_argument("output", type=Path, help="new folder for JSON files and curves")
    parser.add_argument("--per-kind", type=int, default=50, help="captions a kind (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of captions and noise (default 0)")
    parser.add_argument("--batch", type=int, default=16, help="images at once (default 16)")
    parser.add_argument("--table", default="dpmpp2m:10", help="of all parts but the first")
    parser.add_argument("--guidance", type=float, help="default: the bundle's")
    parser.add_argument("--high-guidance", type=float, default=6.0, help="default 6")
    parser.add_argument("--reference-steps", type=int, default=1000, help="default 1000")
    parser.add_argument("--reference-per-kind", type=int, default=2, help="default 2")
    parser.add_argument("--runtime", default="onnxruntime", help="default onnxruntime")
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all"
    )
    parser.add_argument("--dry-run", action="store_true", help="say the cost and stop")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_script(main))
