"""Score, median distance and outliers over evaluations: every solver, one pass, and the student.

    python benchmarks/pareto.py pareto --one-pass minit2i-one-pass

All candidates generate the same held-out captions from the same noise, in sets of other seeds than
those that presets were selected with. Distances are to fine guided steps (``--fine-steps`` of ab2
that land), of ``--fine-per-kind`` captions a kind of the first set; an outlier is an image below
20 dB, which shows other objects than the fine one. Each candidate's verdicts and states are kept in
the output folder, so that a run that was stopped goes on, and one with more candidates adds them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.output_paths import write_json
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.errors import Minit2iError, UsageError, require
from minit2i_deploy.evaluation.compare.confidence_interval import difference_interval
from minit2i_deploy.evaluation.quality import Candidate, parse_table
from minit2i_deploy.evaluation.quality.image_metrics import psnr
from minit2i_deploy.evaluation.quality.paired_verdicts import PairedVerdicts
from minit2i_deploy.evaluation.shapes import held_out_captions, judge
from minit2i_deploy.generate import generate
from minit2i_deploy.io.files import atomic_file
from minit2i_deploy.runtimes import open_runtime

GUIDED: Final = "two branches"
ONE_PASS: Final = "one pass"
STUDENT: Final = "student"
REFERENCE: Final = "euler-100"
# The first of the guided ones is what scores are paired with.
SPECS: Final = {
    GUIDED: (
        REFERENCE, "dpmpp2m:40", "ab2:20", "dpmpp2m:20", "heun:10", "euler:20", "ab2:10",
        "dpmpp2m:10", "ab2:16:shift=2", "ab2:12:shift=2", "dpmpp2m:12:shift=2", "ab2:8:shift=2",
        "ab2:6:shift=2",
    ),
    ONE_PASS: (
        REFERENCE, "ab2:40:a_min=land", "ab2:32:shift=2", "ab2:20", "ab2:16:shift=2",
        "ab2:12:shift=2", "dpmpp2m:16:shift=2", "ab2:8:shift=2", "ab2:6:shift=2",
    ),
    STUDENT: ("mean-flow:8", "mean-flow:4", "mean-flow:2", "mean-flow:1"),
}  # fmt: skip
OUTLIER_DB: Final = 20.0
_MARKERS: Final = "osD^vP"


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A bundle and what its candidates are called in the report."""

    name: str
    bundle: Bundle
    specs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measurement:
    """One candidate's verdicts on all sets, and its states where distances are measured.

    Args:
        correct: bool [sets, captions].
        states: float32 [compared, 3, H, W].
    """

    correct: np.ndarray
    states: np.ndarray


class Meter:
    """Runs candidates of one model on the sets, or reads what an earlier run stored."""

    def __init__(self, model: Model, options: argparse.Namespace) -> None:
        self.model, self.options = model, options
        self.sets = [held_out_captions(options.per_kind, seed) for seed in options.seeds]
        kinds = range(0, len(self.sets[0]), options.per_kind)
        self.compared = [start + i for start in kinds for i in range(options.fine_per_kind)]

    def candidates(self) -> list[Candidate]:
        """Those of the model's specs, at the scale of its presets."""
        bundle = self.model.bundle
        scale = bundle.preset()[1]
        tables = [parse_table(bundle, self._spec(spec)) for spec in self.model.specs]
        return [Candidate(name=table.name, table=table, guidance=scale) for table in tables]

    def _spec(self, spec: str) -> str:
        """A table of the bundle by its name there."""
        names = self.model.bundle.manifest.tables
        return f"{spec}-one-pass" if f"{spec}-one-pass" in names else spec

    def measure(self, candidate: Candidate) -> Measurement:
        """All sets."""
        options, rows = self.options, []
        states = np.zeros(0, np.float32)
        for index, (captions, seed) in enumerate(zip(self.sets, options.seeds, strict=True)):
            file = self._file(candidate, self._set_name(seed))
            if not file.exists():
                correct, x = self._run(candidate, range(len(captions)), index)
                with atomic_file(file) as partial, partial.open("wb") as stream:
                    np.savez(stream, correct=correct, states=x[self.compared])
            with np.load(file) as stored:
                rows.append(stored["correct"])
                states = stored["states"] if index == 0 else states
        return Measurement(correct=np.stack(rows), states=states)

    def fine_states(self) -> np.ndarray:
        """float32 [compared, 3, H, W], of the first set's compared captions."""
        bundle, steps = self.model.bundle, self.options.fine_steps
        table = parse_table(bundle, f"ab2:{steps}:a_min=land")
        fine = Candidate(name=table.name, table=table, guidance=bundle.preset()[1])
        file = self._file(fine, f"fine-{self._set_name(self.options.seeds[0])}")
        if not file.exists():
            states = self._run(fine, self.compared, 0)[1]
            with atomic_file(file) as partial, partial.open("wb") as stream:
                np.savez(stream, states=states)
        with np.load(file) as stored:
            return np.asarray(stored["states"])

    def _set_name(self, seed: int) -> str:
        """Of the captions that are judged and, of these, compared."""
        return f"{self.options.fine_per_kind}of{self.options.per_kind}-{seed}"

    def _file(self, candidate: Candidate, suffix: str) -> Path:
        digest = self.model.bundle.digest[:12]
        return self.options.output / f"{digest}-{candidate.name}-{suffix}.npz"

    def _run(
        self, candidate: Candidate, indices: Sequence[int], index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        print(f"{self.model.name} {candidate.name}, set {index + 1}", file=sys.stderr, flush=True)
        captions, seed, batch = self.sets[index], self.options.seeds[index], self.options.batch
        correct, states = [], []
        with open_runtime(self.model.bundle, "onnxruntime") as runtime:
            for start in range(0, len(indices), batch):
                part = indices[start : start + batch]
                result = generate(
                    self.model.bundle,
                    runtime,
                    [captions[i][1] for i in part],
                    seed=[1000 * seed + i for i in part],
                    table=candidate.table,
                    guidance=candidate.guidance,
                )
                for i, image in zip(part, result.images, strict=True):
                    correct.append(judge(np.asarray(image), captions[i][0]).correct)
                states.append(result.x)
        return np.array(correct), np.concatenate(states)


def run(options: argparse.Namespace) -> None:
    """Measure, print, and write pareto.json and pareto.png."""
    require("matplotlib.figure", "eval")
    options.output.mkdir(parents=True, exist_ok=True)
    models = _models(options)
    fine = Meter(models[0], options).fine_states()
    points: list[dict[str, Any]] = []
    baseline: np.ndarray | None = None
    for model in models:
        meter = Meter(model, options)
        for candidate in meter.candidates():
            measured = meter.measure(candidate)
            baseline = measured.correct if baseline is None else baseline
            points.append(_point(model.name, candidate, measured, baseline, fine))
            print(_line(points[-1]), flush=True)
    settings = {
        name: getattr(options, name)
        for name in ("seeds", "per_kind", "fine_per_kind", "fine_steps", "batch")
    }
    digests = {model.name: model.bundle.digest for model in models}
    report = {"settings": settings, "bundles": digests, "points": points}
    write_json(options.output / "pareto.json", report)
    plot(points, options.output / "pareto.png")


def _models(options: argparse.Namespace) -> list[Model]:
    folders = {
        GUIDED: options.bundle or ready_bundle("demo"),
        ONE_PASS: options.one_pass,
        STUDENT: options.student or ready_bundle("demo-student"),
    }
    tables = {
        GUIDED: options.guided_tables,
        ONE_PASS: options.one_pass_tables,
        STUDENT: options.student_tables,
    }
    return [
        Model(name=name, bundle=Bundle.open(folder), specs=tuple(tables[name] or SPECS[name]))
        for name, folder in folders.items()
        if folder is not None and (name == GUIDED or tables[name] != ["none"])
    ]


def _point(
    model: str,
    candidate: Candidate,
    measured: Measurement,
    baseline: np.ndarray,
    fine: np.ndarray,
) -> dict[str, Any]:
    correct = measured.correct.flatten().tolist()
    paired = PairedVerdicts.of(correct, baseline.flatten().tolist())
    distances = psnr(measured.states, fine)
    return {
        "model": model,
        "table": candidate.name,
        "solver": str(candidate.table.meta.get("solver", candidate.name)),
        "shifted": "shift" in candidate.table.meta,
        "evaluations": candidate.num_evaluations,
        "captions": len(correct),
        "score": sum(correct) / len(correct),
        "difference": (paired.won - paired.lost) / len(correct),
        "interval": list(difference_interval(paired, len(correct))),
        **paired.to_dict(),
        "median_psnr_db": float(np.median(distances)),
        "outliers": float((distances < OUTLIER_DB).mean()),
        "compared": len(distances),
    }


def _line(point: dict[str, Any]) -> str:
    low, high = point["interval"]
    return (
        f"| {point['model']} | {point['table']} | {point['evaluations']} | {point['score']:.3f} | "
        f"{point['difference']:+.3f} | {low:+.3f} to {high:+.3f} | {point['won']} / "
        f"{point['lost']} | {point['median_psnr_db']:.1f} | {point['outliers']:.2f} |"
    )


def plot(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Score, median distance and share of outliers over evaluations, a line for each solver."""
    figure = require("matplotlib.figure", "eval").Figure(figsize=(13, 4.6), layout="constrained")
    panels = (
        ("score", "captions followed"),
        ("median_psnr_db", "median PSNR to fine steps (dB)"),
        ("outliers", f"share of images below {OUTLIER_DB:g} dB"),
    )
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda item: item["evaluations"]):
        shift = ", shift 2" if point["shifted"] else ""
        label = f"{point['model']}: {point['solver']}{shift}"
        groups.setdefault(label, []).append(point)
    for axes, (key, label) in zip(figure.subplots(1, 3), panels, strict=True):
        for index, (name, group) in enumerate(groups.items()):
            dashed = name.startswith(GUIDED)
            axes.plot(
                [point["evaluations"] for point in group],
                [point[key] for point in group],
                marker=_MARKERS[index % len(_MARKERS)],
                linestyle="--" if dashed else "-",
                color=f"C{index % 10}",
                label=name,
            )
        axes.set_xscale("log")
        ticks = (1, 2, 4, 8, 16, 32, 64, 128)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("evaluations an image")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    try:
        if options.plot_only:
            report = json.loads((options.output / "pareto.json").read_text("utf-8"))
            plot(report["points"], options.output / "pareto.png")
        else:
            run(options)
    except Minit2iError as error:
        sys.stderr.write(f"pareto: error: {error}\n")
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure score and distance over evaluations.")
    parser.add_argument("output", type=Path, help="folder for results; an earlier run's goes on")
    parser.add_argument("--bundle", type=Path, help="two branches (default: demo)")
    parser.add_argument("--one-pass", type=Path, help="the same model with its one-pass adapter")
    parser.add_argument("--student", type=Path, help="few-step student (default: demo-student)")
    for option, name in (
        ("--guided-tables", GUIDED),
        ("--one-pass-tables", ONE_PASS),
        ("--student-tables", STUDENT),
    ):
        # Its fine steps and its first table are what the others are compared with.
        text = f"of {name}" if name == GUIDED else f"of {name}, or none"
        text += " (default: a list)"
        parser.add_argument(option, nargs="+", metavar="TABLE", help=text)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11], help="of the sets")
    parser.add_argument("--per-kind", type=int, default=100, help="captions a kind (default 100)")
    parser.add_argument("--fine-per-kind", type=int, default=10, help="compared (default 10)")
    parser.add_argument("--fine-steps", type=int, default=200, help="default 200")
    parser.add_argument("--batch", type=int, default=25, help="images at once (default 25)")
    parser.add_argument("--plot-only", action="store_true", help="draw an earlier run's figures")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(run_script(main))
