"""minit2i eval score: scores of a benchmark's images, and two bundles compared."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.eval_tasks.paint_task import SUITE_NAMES
from minit2i_deploy.cli.support.options.shared_arguments import add_json
from minit2i_deploy.cli.support.parser import add_task
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.evaluation.benchmarks.scorers import Scorer
    from minit2i_deploy.evaluation.benchmarks.scores import PairedScores, Scores
    from minit2i_deploy.evaluation.benchmarks.suites import Suite
    from minit2i_deploy.shards.check import JobStatus

_SCORES_SUFFIX: Final = ".scores"
_EPILOG: Final = """\
--scorer runs the benchmark's own code on OUT and keeps what it writes in OUT.scores;
--results reads what it has written. shapes needs neither. For prism run a judge
that writes group, item_id, sample, metric, score and max_score of each image.

With OUT_B, both are compared image by image: the change is from OUT to OUT_B.

examples:
  minit2i eval score shapes shapes-fp32 shapes-int8
  minit2i eval score geneval images --scorer geneval --models detectors
  minit2i eval score geneval fp32 int8 --results fp32.jsonl int8.jsonl -o report.json
  minit2i eval score fid images --stats mscoco_fid_stats_512.npz
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreOptions:
    """Options of minit2i eval score; None where one was not given."""

    suite: str
    folders: tuple[Path, ...]
    scorer: Path | None
    models: Path | None
    python: str | None
    stats: Path | None
    results: tuple[Path, ...] | None
    output: Path | None
    json: bool


def add_score(tests: Any) -> None:
    """Add the task to those of ``minit2i eval``."""
    parser = add_task(
        tests,
        "score",
        run_score,
        help="score the images of a benchmark, and compare two bundles",
        description="Score the images of a benchmark by its own scorer, and compare two bundles "
        "image by image.",
        epilog=_EPILOG,
    )
    parser.add_argument("suite", metavar="SUITE", choices=SUITE_NAMES, help=", ".join(SUITE_NAMES))
    parser.add_argument(
        "folders", metavar="OUT", type=Path, nargs="+", help="folders of minit2i eval paint"
    )
    parser.add_argument(
        "--scorer", metavar="DIR", type=Path, help="clone of the benchmark's repository, to run it"
    )
    parser.add_argument(
        "--models", metavar="DIR", type=Path, help="geneval: folder of the detector's weights"
    )
    parser.add_argument(
        "--python", metavar="FILE", help="interpreter for the scorer (default: this one)"
    )
    parser.add_argument(
        "--stats", metavar="FILE", type=Path, help="fid: statistics of the reference images"
    )
    parser.add_argument(
        "--results",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="what the scorer has written for each OUT",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help=".json file for the report, replaced if it exists",
    )
    add_json(parser)


def run_score(options: ScoreOptions) -> None:
    """Score, compare, print."""
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.evaluation.benchmarks.suites import FID, find_suite

    suite = find_suite(options.suite)
    _check(options)
    if options.output is not None:
        output_paths.output_file(options.output, ".json")
    statuses = [_status(suite, folder) for folder in options.folders]
    _check_same_prompts(statuses)
    if suite.name == FID:
        values, text = _fid(suite, options, statuses)
    else:
        values, text = _scored(suite, options, statuses)
    if options.output is not None:
        output_paths.write_json(options.output, values)
    print(json_text(values) if options.json else text)


def _check(options: ScoreOptions) -> None:
    if len(options.folders) > 2:
        raise UsageError(f"expected OUT or OUT OUT_B, got {len(options.folders)} folders")
    if options.results is not None:
        if len(options.results) != len(options.folders):
            raise UsageError(
                f"--results: expected {len(options.folders)} files, one for each OUT, got "
                f"{len(options.results)}"
            )
        if options.scorer is not None:
            raise UsageError("--results and --scorer are mutually exclusive")


def _status(suite: Suite, folder: Path) -> JobStatus:
    from minit2i_deploy.evaluation.benchmarks.generate_suite import KIND
    from minit2i_deploy.shards.check import find_job, job_status

    status = job_status(find_job(folder))
    settings: Any = status.job.settings
    if status.job.kind != KIND or settings.get("suite") != suite.name:
        raise UsageError(
            f"{folder}: has images of {settings.get('suite', status.job.kind)}, not of {suite.name}"
        )
    status.require_complete()
    return status


def _check_same_prompts(statuses: list[JobStatus]) -> None:
    """Refuse to compare other prompts; settings may differ, and are then named."""
    if len(statuses) < 2:
        return
    first, second = (status.job for status in statuses)
    if first.input_sha256 != second.input_sha256:
        raise UsageError(
            f"{statuses[1].folder}: its prompts have sha256 {second.input_sha256[:12]}.., but "
            f"those of {statuses[0].folder} have {first.input_sha256[:12]}..; compare the same"
        )
    before: Any = first.settings
    after: Any = second.settings
    if before["samples"] != after["samples"]:
        raise UsageError(f"expected {before['samples']} samples a prompt, got {after['samples']}")
    for name in sorted(before):
        if before[name] != after.get(name) and name != "table_sha256":
            sys.stderr.write(
                f"minit2i: warning: {name} differs: {before[name]} and {after.get(name)}\n"
            )


def _scored(
    suite: Suite, options: ScoreOptions, statuses: list[JobStatus]
) -> tuple[dict[str, Any], str]:
    from minit2i_deploy.evaluation.benchmarks.scores import PairedScores

    scores = []
    for place, status in enumerate(statuses):
        scores.append(_scores(suite, options, status, place))
    sides = [_side(status, each) for status, each in zip(statuses, scores, strict=True)]
    values: dict[str, Any] = {"suite": suite.name, "sides": sides}
    lines = _table(sides)
    if len(scores) == 2:
        paired = PairedScores.of(scores[1], scores[0])
        values["paired"] = paired.to_dict()
        lines.append(_paired_text(paired))
    return values, "\n".join(lines)


def _scores(suite: Suite, options: ScoreOptions, status: JobStatus, place: int) -> Scores:
    from minit2i_deploy.evaluation.benchmarks.result_files import read_results
    from minit2i_deploy.evaluation.benchmarks.scorers import run_scorer, shapes_scores
    from minit2i_deploy.evaluation.benchmarks.suites import DPG, SHAPES
    from minit2i_deploy.progress import ProgressLine
    from minit2i_deploy.shards.check import marks

    images = status.job.data_folder(status.folder)
    if suite.name == SHAPES:
        with ProgressLine("detect") as progress:
            scores, where = shapes_scores(images, progress), str(images)
    else:
        if options.results is not None:
            results = options.results[place]
        else:
            results = _own_results(suite, images)
            if options.scorer is not None:
                run_scorer(_scorer(options, status).command(suite, images, results))
        scores, where = read_results(suite, results), str(results)
    names = {name for mark in marks(status) for name in mark.files if name.endswith(".png")}
    if suite.name == DPG:
        names -= _skipped_grids(names - set(scores.values), where)
    scores.require_keys(names, where)
    return scores


def _skipped_grids(missing: set[str], where: str) -> set[str]:
    """The grid that DPG-Bench's script skips: it loses the first question of its table."""
    if len(missing) != 1:
        return set()
    sys.stderr.write(f"minit2i: warning: {where}: has no score of {min(missing)}\n")
    return missing


def _own_results(suite: Suite, images: Path) -> Path:
    from minit2i_deploy.evaluation.benchmarks.suites import DPG

    folder = images.with_name(f"{images.name}{_SCORES_SUFFIX}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / ("results.txt" if suite.name == DPG else "results.jsonl")


def _scorer(options: ScoreOptions, status: JobStatus) -> Scorer:
    from minit2i_deploy.evaluation.benchmarks.scorers import Scorer
    from minit2i_deploy.evaluation.benchmarks.suites import DPG
    from minit2i_deploy.io.images import read_rgb
    from minit2i_deploy.shards.check import marks

    settings: Any = status.job.settings
    resolution = 0
    if settings["suite"] == DPG:
        name = next(name for mark in marks(status) for name in mark.files)
        side = read_rgb(status.job.data_folder(status.folder) / name).shape[0]
        resolution = side // 2 if settings["samples"] == 4 else side
    return Scorer(
        folder=options.scorer,
        python=options.python or sys.executable,
        models=options.models,
        stats=options.stats,
        resolution=resolution,
    )


def _fid(
    suite: Suite, options: ScoreOptions, statuses: list[JobStatus]
) -> tuple[dict[str, Any], str]:
    from minit2i_deploy.evaluation.benchmarks.scorers import fid_of, run_scorer
    from minit2i_deploy.io.files import sha256_file

    if options.stats is not None and not options.stats.is_file():
        raise UsageError(f"{options.stats}: no such file; name the statistics of the reference")
    sides, lines = [], []
    for status in statuses:
        images = status.job.data_folder(status.folder)
        command = _scorer(options, status).command(suite, images, images)
        value = fid_of(run_scorer(command))
        sides.append({**_identity(status), "fid": value})
        lines.append(f"{images}  FID {value:.3f}, {status.counts['images']} images")
    # Two statistics files of the same images give two numbers that must not be compared.
    assert options.stats is not None
    stats = {"file": options.stats.name, "sha256": sha256_file(options.stats)}
    lines.append(f"against {stats['file']} (sha256 {stats['sha256'][:12]}..) by pytorch-fid")
    if len(sides) == 2:
        lines.append(f"difference {sides[1]['fid'] - sides[0]['fid']:+.3f}")
    return {"suite": suite.name, "statistics": stats, "sides": sides}, "\n".join(lines)


def _identity(status: JobStatus) -> dict[str, Any]:
    return {
        "folder": str(status.job.data_folder(status.folder)),
        "bundle": status.job.bundle,
        "prompts": status.counts["prompts"],
        "images": status.counts["images"],
        "settings": status.job.settings,
    }


def _side(status: JobStatus, scores: Scores) -> dict[str, Any]:
    return {
        **_identity(status),
        "scored": len(scores.values),
        "overall": scores.overall,
        "groups": scores.group_scores(),
    }


def _table(sides: list[dict[str, Any]]) -> list[str]:
    from minit2i_deploy.cli.support.formatting import columns

    lines = [
        f"{side['folder']}  bundle {side['bundle'][:12]}.., {side['prompts']} prompts, "
        f"{side['images']} images"
        for side in sides
    ]
    names = [*sides[0]["groups"], "overall"]
    rows = [
        (name, *(f"{side['groups'].get(name, side['overall']):.4f}" for side in sides))
        for name in names
    ]
    return [*lines, columns(rows, head=("group", *("A", "B")[: len(sides)]))]


def _paired_text(paired: PairedScores) -> str:
    low, high = paired.interval
    text = (
        f"B - A over all images: {paired.difference:+.4f} (95%: {low:+.4f} to {high:+.4f}), won "
        f"{paired.won}, lost {paired.lost} of {paired.total}"
    )
    return text if paired.p_value is None else f"{text}, p {paired.p_value:.3f}"
