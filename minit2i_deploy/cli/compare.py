"""minit2i compare: two bundles, or two engines, on the same prompts and noise."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.counts import check_per_kind, check_repeats
from minit2i_deploy.cli.support.engine_spec import FORM, engine_options, engine_words
from minit2i_deploy.cli.support.options import (
    add_engine,
    add_json,
    add_painting,
    chosen_painting,
    opened_runtime,
    whole_numbers,
)
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.compare import Comparison, Contender, PromptCase

REPORT: Final = "report.json"
PAGE: Final = "report.html"
_PER_KIND: Final = 2
_STAGES: Final = ("encode", "adapt", "step")
_EPILOG: Final = """\
A is the reference. Both paint with A's table and guidance. The folder receives
  report.html  figures, errors row by row, pictures side by side; one file
  report.json  the same figures, and those of every picture

Without --prompts, a model of shapes paints held-out captions, which an exact
detector judges; the score's difference comes with its paired 95% interval.

examples:
  minit2i compare my-bundle my-int8 -o comparison
  minit2i compare my-bundle my-int8 --captions 100 --steps 20 --solver dpmpp2m
  minit2i compare my-bundle my-bundle --runtime-b openvino::bf16
  minit2i compare b16 b16-int8 --prompts prompts.txt --seeds 0,1 --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Compare two bundles on the same prompts, noise and table: errors row by row, final "
        "pictures, prompt following, seams between patches, size and speed."
    )
    parser.epilog = _EPILOG
    for name in ("A", "B"):
        words = "folder of a bundle" + (", the reference" if name == "A" else "")
        parser.add_argument(name.lower(), metavar=name, help=words)
    parser.add_argument(
        "--prompts", metavar="FILE", type=Path, help=".txt file of prompts, one a line"
    )
    parser.add_argument(
        "--captions",
        metavar="N",
        type=int,
        help=f"shapes captions of each of the six kinds, judged (default {_PER_KIND} without "
        "--prompts)",
    )
    parser.add_argument(
        "--seeds",
        metavar="S,S..",
        type=whole_numbers,
        help="paint every prompt from each of these; default: the n-th prompt from seed n",
    )
    parser.add_argument(
        "--details",
        metavar="N",
        type=int,
        default=12,
        help="pictures measured row by row and shown (default 12)",
    )
    parser.add_argument(
        "--batch", metavar="N", type=int, default=8, help="pictures painted at once (default 8)"
    )
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=int,
        default=10,
        help="timed calls a stage, A and B in turns; 0: no times (default 10)",
    )
    parser.add_argument(
        "-o", "--output", "--out", metavar="DIR", type=Path, help="new folder for the reports"
    )
    add_painting(parser)
    add_engine(parser)
    parser.add_argument(
        "--runtime-b",
        metavar=FORM,
        help="engine of B; default: that of A",
    )
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Open both, compare, write and print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.evaluation.compare import CompareSettings, check_comparable, compare
    from minit2i_deploy.evaluation.compare.contenders import Contender
    from minit2i_deploy.progress import ProgressLine

    _check(options)
    a, b = Bundle.open(options.a), Bundle.open(options.b)
    check_comparable(a, b)
    tasks = _tasks(a, options)
    table, guidance = chosen_painting(a, options)
    settings = CompareSettings(
        table=table, guidance=guidance, batch=options.batch, details=options.details
    )
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, options)
        sides = [
            Contender(
                bundle=bundle,
                runtime=stack.enter_context(opened_runtime(bundle, engine)),
                engine=engine_words(engine),
            )
            for bundle, engine in ((a, options), (b, _engine_of_b(options)))
        ]
        with ProgressLine("compare") as line:
            found = compare(sides[0], sides[1], tasks, settings, line)
        if options.repeats:
            speed = _speed(sides, options.repeats, tasks[0].prompt)
            found = dataclasses.replace(found, speed=speed)
        if folder is not None:
            _write(folder, found)
    print(json_text(found.to_dict()) if options.json else _text(found, options))


def _check(options: argparse.Namespace) -> None:
    if options.prompts is not None and options.captions is not None:
        raise UsageError("--prompts came with --captions; give one or the other")
    check_repeats("--repeats", options.repeats, least=0)
    if options.captions is not None:
        check_per_kind("--captions", options.captions)


def _tasks(bundle: Bundle, options: argparse.Namespace) -> list[PromptCase]:
    from minit2i_deploy.cli.support.image_plan import read_prompts
    from minit2i_deploy.evaluation.compare import caption_cases, is_shapes_model, prompt_cases

    if options.prompts is not None:
        return prompt_cases(read_prompts(options.prompts), options.seeds)
    if options.captions is None and not is_shapes_model(bundle):
        raise UsageError(
            f"{bundle.path}: is no model of shapes, so there are no prompts to start from; give "
            "--prompts FILE"
        )
    per_kind = _PER_KIND if options.captions is None else options.captions
    return caption_cases(per_kind, options.seeds)


def _engine_of_b(options: argparse.Namespace) -> argparse.Namespace:
    """Engine options of B: its own, or all of A's."""
    if options.runtime_b is None:
        return options
    try:
        return engine_options(options.runtime_b, threads=options.threads)
    except ValueError as error:
        raise UsageError(f"--runtime-b {error}; give that") from error


def _folder(stack: contextlib.ExitStack, options: argparse.Namespace) -> Path | None:
    from minit2i_deploy.io.files import atomic_directory

    return None if options.output is None else stack.enter_context(atomic_directory(options.output))


def _speed(sides: Sequence[Contender], repeats: int, prompt: str) -> dict[str, Any]:
    """Median times of both, taken in turns."""
    from minit2i_deploy.evaluation.bench.stages import prepare_subject
    from minit2i_deploy.evaluation.bench.timing import speed_ratios, time_subjects
    from minit2i_deploy.machine import describe_machine
    from minit2i_deploy.progress import ProgressLine

    subjects = [
        prepare_subject(name, side.bundle, side.runtime, prompt=prompt, num_texts=8, batch_size=8)
        for name, side in zip("AB", sides, strict=True)
    ]
    with ProgressLine("times") as line:
        first, second = time_subjects(subjects, repeats=repeats, progress=line)
    ratio = speed_ratios(first, second)
    return {
        "machine": describe_machine(),
        "repeats": repeats,
        "stages": {
            stage: {
                "a_p50_s": first.timings[stage].p50,
                "b_p50_s": second.timings[stage].p50,
                "ratio": ratio[stage],
            }
            for stage in _STAGES
        },
    }


def _write(folder: Path, found: Comparison) -> None:
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.evaluation.compare.html_report import to_html
    from minit2i_deploy.io.files import atomic_write_text

    output_paths.write_json(folder / REPORT, found.to_dict())
    atomic_write_text(folder / PAGE, to_html(found))


def _text(found: Comparison, options: argparse.Namespace) -> str:
    from minit2i_deploy.cli.support.formatting import columns
    from minit2i_deploy.evaluation.compare.summary import (
        denoiser_label,
        figure_cells,
        size_cells,
        speed_cells,
    )

    sides = [
        (name, denoiser_label(side), side["engine"], side["path"])
        for name, side in zip("AB", found.sides, strict=True)
    ]
    what = f"{len(found.pairs)} pictures, table {found.table}, guidance {found.guidance:g}"
    parts = [
        f"{columns(sides)}\n{what}",
        columns(figure_cells(found), head=("figure", "A", "B", "B to A")),
        columns(size_cells(found), head=("bytes", "A", "B", "B over A")),
    ]
    if found.speed is not None:
        head = ("stage", "A, median ms", "B, median ms", "B is faster, times")
        parts.append(columns(speed_cells(found.speed), head=head))
    if options.output is not None:
        parts.append(str(options.output / PAGE))
    return "\n\n".join(parts)
