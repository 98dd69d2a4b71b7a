"""minit2i compare: two or more bundles or engines on the same prompts and noise."""

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
    from collections.abc import Callable, Mapping, Sequence

    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.bench.timing import SubjectTimings
    from minit2i_deploy.evaluation.compare import (
        CompareSettings,
        Comparison,
        Contender,
        PromptCase,
    )

    # Figures for JSON, the page, and the text for people.
    Outcome = tuple[Mapping[str, Any], Callable[[], str], str]

REPORT: Final = "report.json"
PAGE: Final = "report.html"
_PER_KIND: Final = 2
_STAGES: Final = ("encode", "adapt", "step")
_EPILOG: Final = """\
A is the reference. All use A's table and guidance. The folder receives
  report.html  figures, charts and images side by side; one file
  report.json  the same figures, and those of every image
Two bundles are also compared row by row. Of more, each is compared with A: bytes,
PSNR, score and speed of each in bars, scatters and histograms, the worst images,
and the settings that differ.

Without --prompts, a model of shapes generates images of held-out captions, which
an exact detector scores; the difference of the scores has a paired 95% interval.

examples:
  minit2i compare my-bundle my-int8 -o comparison
  minit2i compare my-bundle my-int8 --captions 100 --steps 20 --solver dpmpp2m
  minit2i compare my-bundle my-int8 my-fp8 my-int8@openvino -o report
  minit2i compare my-bundle my-bundle --runtime-b openvino::bf16
  minit2i compare b16 b16-int8 --prompts prompts.txt --seeds 0,1 --json
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions:
    """Options of minit2i compare; None where one was not given."""

    a: str
    b: str
    more: tuple[str, ...]
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
        "Compare bundles on the same prompts, noise and table: final images, prompt following, "
        "size and speed; of two bundles also errors row by row and seams between patches."
    )
    parser.epilog = _EPILOG
    _add_bundles(parser)
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
        help="images that are shown: measured row by row, or of more than two bundles the worst "
        "(default 12)",
    )
    parser.add_argument(
        "--batch", metavar="N", type=integer, default=8, help="images generated at once (default 8)"
    )
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=integer,
        default=10,
        help="timed calls per stage, all bundles in turns; 0 for no times (default 10)",
    )
    parser.add_argument(
        "-o", "--output", "--out", metavar="DIR", type=Path, help="new folder for the reports"
    )
    add_sampling(parser)
    add_engine(parser)
    parser.add_argument(
        "--runtime-b",
        metavar=SPEC_FORM,
        help="engine of B, of two bundles; default: that of A",
    )
    add_json(parser)


def _add_bundles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", type=bundle_path, help="bundle, the reference")
    parser.add_argument(
        "b", metavar="B", type=bundle_path, help=f"bundle, or BUNDLE@{SPEC_FORM} for its engine"
    )
    parser.add_argument(
        "more", metavar="C", nargs="*", type=bundle_path, help="further bundles, as B"
    )


def run(options: CompareOptions) -> None:
    """Open all bundles, compare, write and print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.evaluation.compare import CompareSettings, check_comparable
    from minit2i_deploy.evaluation.compare.contenders import Contender

    _check(options)
    a = Bundle.open(options.a)
    subjects = [(a, options.engine), *(_bundle_of(options, text) for text in _others(options))]
    for bundle, _ in subjects[1:]:
        check_comparable(a, bundle)
    cases = _cases(a, options)
    table, guidance = choose_table(a, options.sampling, options.guidance)
    settings = CompareSettings(
        table=table, guidance=guidance, batch=options.batch, details=options.details
    )
    compare_all = _compare_several if options.more else _compare_two
    with contextlib.ExitStack() as stack:
        folder = _folder(stack, options)
        sides = []
        for bundle, engine in subjects:
            runtime = stack.enter_context(open_engine(bundle, engine))
            spec = opened_spec(engine, runtime)
            sides.append(Contender(bundle=bundle, runtime=runtime, engine=spec))
        values, page, text = compare_all(sides, cases, settings, options.repeats)
        if folder is not None:
            _write(folder, values, page())
    if options.json:
        print(json_text(values))
        return
    print("\n\n".join([text, *([] if options.output is None else [str(options.output / PAGE)])]))


def _others(options: CompareOptions) -> tuple[str, ...]:
    return (options.b, *options.more)


def _bundle_of(options: CompareOptions, text: str) -> tuple[Bundle, EngineOptions]:
    """A bundle of the command line and its engine: its own, --runtime-b, or that of A."""
    from minit2i_deploy.bundle.bundle import Bundle

    folder, at, spec = text.rpartition("@")
    if not at or Path(text).exists():
        return Bundle.open(text), _engine_of_b(options)
    if options.runtime_b is not None:
        raise UsageError(f"--runtime-b and the engine in {text!r} are mutually exclusive")
    return Bundle.open(bundle_path(folder)), _engine_of(text, spec, options)


def _compare_two(
    sides: Sequence[Contender], cases: Sequence[PromptCase], settings: CompareSettings, repeats: int
) -> Outcome:
    from minit2i_deploy.evaluation.compare import compare
    from minit2i_deploy.evaluation.compare.html_report import to_html
    from minit2i_deploy.progress import ProgressLine

    with ProgressLine("compare") as line:
        comparison = compare(sides[0], sides[1], cases, settings, line)
    if repeats:
        comparison = dataclasses.replace(comparison, speed=_speed(sides, repeats, cases[0].prompt))
    return comparison.to_dict(), lambda: to_html(comparison), _text(comparison)


def _compare_several(
    sides: Sequence[Contender], cases: Sequence[PromptCase], settings: CompareSettings, repeats: int
) -> Outcome:
    from minit2i_deploy.cli.support.formatting import columns
    from minit2i_deploy.evaluation.side_by_side import Speed, measure_side_by_side
    from minit2i_deploy.evaluation.side_by_side.page import to_html
    from minit2i_deploy.evaluation.side_by_side.summary import figure_cells, figure_head
    from minit2i_deploy.progress import ProgressLine

    with ProgressLine("compare") as line:
        result = measure_side_by_side(sides, cases, settings, line)
    if repeats:
        times = _timings(sides, repeats, cases[0].prompt)
        result = result.with_speed([Speed.of(times[0], each) for each in times])
    text = (
        f"{len(cases)} images, table {result.table}, guidance {result.guidance:g}, compared with "
        f"{result.reference.name}\n\n{columns(figure_cells(result), head=figure_head(result))}"
    )
    return result.to_dict(), lambda: to_html(result), text


def _check(options: CompareOptions) -> None:
    if options.prompts is not None and options.captions is not None:
        raise UsageError("--prompts and --captions are mutually exclusive")
    check_repeats("--repeats", options.repeats, least=0)
    for name in ("batch", "details"):
        check_least(f"--{name}", getattr(options, name), 1)
    if options.captions is not None:
        check_per_kind("--captions", options.captions)


def _cases(bundle: Bundle, options: CompareOptions) -> list[PromptCase]:
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
    if options.more:
        raise UsageError(
            f"--runtime-b is for two bundles; of more, write BUNDLE@{SPEC_FORM} for each"
        )
    return _engine_of("--runtime-b", options.runtime_b, options)


def _engine_of(where: str, spec: str, options: CompareOptions) -> EngineOptions:
    try:
        return EngineOptions.from_spec(spec, beside=options.engine)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def _folder(stack: contextlib.ExitStack, options: CompareOptions) -> Path | None:
    from minit2i_deploy.io.files import atomic_directory

    return None if options.output is None else stack.enter_context(atomic_directory(options.output))


def _timings(sides: Sequence[Contender], repeats: int, prompt: str) -> list[SubjectTimings]:
    """Times of all stages of all sides, taken in turns."""
    from minit2i_deploy.evaluation.bench.stages import prepare_subject
    from minit2i_deploy.evaluation.bench.timing import time_subjects
    from minit2i_deploy.progress import ProgressLine

    subjects = [
        prepare_subject(
            str(index), side.bundle, side.runtime, prompt=prompt, num_texts=8, batch_size=8
        )
        for index, side in enumerate(sides)
    ]
    with ProgressLine("times") as line:
        return time_subjects(subjects, repeats=repeats, progress=line)


def _speed(sides: Sequence[Contender], repeats: int, prompt: str) -> dict[str, Any]:
    """Median times of two sides."""
    from minit2i_deploy.evaluation.bench.timing import speed_ratios
    from minit2i_deploy.machine import describe_machine

    first, second = _timings(sides, repeats, prompt)
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


def _write(folder: Path, values: Mapping[str, Any], page: str) -> None:
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.io.files import atomic_write_text

    output_paths.write_json(folder / REPORT, values)
    atomic_write_text(folder / PAGE, page)


def _text(comparison: Comparison) -> str:
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
    return "\n\n".join(parts)
