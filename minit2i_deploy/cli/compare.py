"""minit2i compare: two bundles, or two engines, on the same prompts and noise."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.engine_opening import open_engine, opened_spec
from minit2i_deploy.cli.support.limits import check_least, check_per_kind, check_repeats
from minit2i_deploy.cli.support.options.engine_options import SPEC_FORM, EngineOptions, add_engine
from minit2i_deploy.cli.support.options.sampling_options import (
    TableOptions,
    add_sampling,
    choose_table,
)
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_json,
    bundle_path,
    integer,
    integers,
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
A is the reference. Both sides use A's table and guidance. The folder receives
  report.html  figures, errors row by row, images side by side; one file
  report.json  the same figures, and those of every image

Without --prompts, a model of shapes generates images of held-out captions, which
an exact detector scores; the difference of the scores has a paired 95% interval.

examples:
  minit2i compare my-bundle my-int8 -o comparison
  minit2i compare my-bundle my-int8 --captions 100 --steps 20 --solver dpmpp2m
  minit2i compare my-bundle my-bundle --runtime-b openvino::bf16
  minit2i compare b16 b16-int8 --prompts prompts.txt --seeds 0,1 --json
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """Options of minit2i compare; None where one was not given."""

    a: str
    b: str
    prompts: Path | None
    captions: int | None
    seeds: tuple[int, ...] | None
    details: int
    batch: int
    repeats: int
    output: Path | None
    sampling: TableOptions
    guidance: float | None
    engine: EngineOptions
    runtime_b: str | None
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Compare two bundles on the same prompts, noise and table: errors row by row, final "
        "images, prompt following, seams between patches, size and speed."
    )
    parser.epilog = _EPILOG
    for name in ("A", "B"):
        text = "folder of a bundle" + (", the reference" if name == "A" else "")
        parser.add_argument(name.lower(), metavar=name, type=bundle_path, help=text)
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help=".txt file with one prompt per line; - reads standard input",
    )
    parser.add_argument(
        "--captions",
        metavar="N",
        type=integer,
        help=f"scored captions of each of the six kinds of shapes (default {_PER_KIND} without "
        "--prompts)",
    )
    parser.add_argument(
        "--seeds",
        metavar="S,S..",
        type=integers,
        help="generate every prompt from each of these seeds; default: prompt n from seed n",
    )
    parser.add_argument(
        "--details",
        metavar="N",
        type=integer,
        default=12,
        help="images that are measured row by row and shown (default 12)",
    )
    parser.add_argument(
        "--batch", metavar="N", type=integer, default=8, help="images generated at once (default 8)"
    )
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=integer,
        default=10,
        help="timed calls per stage, A and B in turns; 0 for no times (default 10)",
    )
    parser.add_argument(
        "-o", "--output", "--out", metavar="DIR", type=Path, help="new folder for the reports"
    )
    add_sampling(parser)
    add_engine(parser)
    parser.add_argument(
        "--runtime-b",
        metavar=SPEC_FORM,
        help="engine of B; default: that of A",
    )
    add_json(parser)


def run(options: CompareOptions) -> None:
    """Open both bundles, compare, write and print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.evaluation.compare import CompareSettings, check_comparable, compare
    from minit2i_deploy.evaluation.compare.contenders import Contender
    from minit2i_deploy.progress import ProgressLine

    _check(options)
    a, b = Bundle.open(options.a), Bundle.open(options.b)
    check_comparable(a, b)
    tasks = _tasks(a, options)
    table, guidance = choose_table(a, options.sampling, options.guidance)
    settings = CompareSettings(
        table=table, guidance=guidance, batch=options.batch, details=options.details
    )
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, options)
        sides = []
        for bundle, engine in ((a, options.engine), (b, _engine_of_b(options))):
            runtime = stack.enter_context(open_engine(bundle, engine))
            spec = opened_spec(engine, runtime)
            sides.append(Contender(bundle=bundle, runtime=runtime, engine=spec))
        with ProgressLine("compare") as line:
            comparison = compare(sides[0], sides[1], tasks, settings, line)
        if options.repeats:
            speed = _speed(sides, options.repeats, tasks[0].prompt)
            comparison = dataclasses.replace(comparison, speed=speed)
        if folder is not None:
            _write(folder, comparison)
    print(json_text(comparison.to_dict()) if options.json else _text(comparison, options))


def _check(options: CompareOptions) -> None:
    if options.prompts is not None and options.captions is not None:
        raise UsageError("--prompts and --captions are mutually exclusive")
    check_repeats("--repeats", options.repeats, least=0)
    for name in ("batch", "details"):
        check_least(f"--{name}", getattr(options, name), 1)
    if options.captions is not None:
        check_per_kind("--captions", options.captions)


def _tasks(bundle: Bundle, options: CompareOptions) -> list[PromptCase]:
    from minit2i_deploy.cli.support.images.image_requests import read_prompts
    from minit2i_deploy.evaluation.compare import caption_cases, is_shapes_model, prompt_cases

    if options.prompts is not None:
        return prompt_cases(read_prompts(options.prompts), options.seeds)
    if options.captions is None and not is_shapes_model(bundle):
        raise UsageError(
            f"{bundle.path}: there are captions for models of shapes only; add --prompts FILE"
        )
    per_kind = _PER_KIND if options.captions is None else options.captions
    return caption_cases(per_kind, options.seeds)


def _engine_of_b(options: CompareOptions) -> EngineOptions:
    """The engine of B: --runtime-b, or that of A."""
    if options.runtime_b is None:
        return options.engine
    try:
        return EngineOptions.from_spec(options.runtime_b, threads=options.engine.threads)
    except ValueError as error:
        raise UsageError(f"--runtime-b: {error}") from error


def _folder(stack: contextlib.ExitStack, options: CompareOptions) -> Path | None:
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


def _write(folder: Path, comparison: Comparison) -> None:
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.evaluation.compare.html_report import to_html
    from minit2i_deploy.io.files import atomic_write_text

    output_paths.write_json(folder / REPORT, comparison.to_dict())
    atomic_write_text(folder / PAGE, to_html(comparison))


def _text(comparison: Comparison, options: CompareOptions) -> str:
    from minit2i_deploy.cli.support.formatting import columns
    from minit2i_deploy.evaluation.compare.summary import (
        denoiser_label,
        figure_cells,
        size_cells,
        speed_cells,
    )

    sides = [
        (name, denoiser_label(side), side["engine"], side["path"])
        for name, side in zip("AB", comparison.sides, strict=True)
    ]
    settings = f"table {comparison.table}, guidance {comparison.guidance:g}"
    parts = [
        f"{columns(sides)}\n{len(comparison.pairs)} images, {settings}",
        columns(figure_cells(comparison), head=("figure", "A", "B", "B to A")),
        columns(size_cells(comparison), head=("bytes", "A", "B", "B over A")),
    ]
    if comparison.speed is not None:
        head = ("stage", "A, median ms", "B, median ms", "B is faster, times")
        parts.append(columns(speed_cells(comparison.speed), head=head))
    if options.output is not None:
        parts.append(str(options.output / PAGE))
    return "\n\n".join(parts)
