"""minit2i bench: time the stages of a bundle, on one engine or on several in turns."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.engine_opening import open_engine, opened_spec
from minit2i_deploy.cli.support.limits import (
    MAX_TEXTS,
    check_count,
    check_least,
    check_repeats,
)
from minit2i_deploy.cli.support.options.engine_options import SPEC_FORM, EngineOptions, add_engine
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_bundle,
    add_json,
    bundle_path,
    integer,
)
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.bench.timing import SubjectTimings

_RATES: Final = (
    "engine", "images/s", "texts/s", "GFLOP/s", "matrix", "share", "error", "PSNR dB",
)  # fmt: skip
_EPILOG: Final = """\
Stages: tokenize, encode and adapt one prompt; one step of the table with all its
branches; the state to an image; embed, --texts short texts in batches. images/s
adds up the medians over the rows of the preset's table. The share is the step's
arithmetic per second over that of large matrix products on the same engine.

Each --against is timed in turns with the first engine (A B A B). A ratio above 1
is how many times faster it is, by the median over the turns. The error is that of
its estimate of the clean image to the first engine's, from the same states at
several noise levels: the worst, by Euclidean norm and as a PSNR. minit2i compare
measures complete images.

examples:
  minit2i bench my-bundle --threads 2
  minit2i bench my-bundle --against openvino::bf16 --against onnxruntime:openvino
  minit2i bench my-bundle --against other-bundle@onnxruntime --json
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """Options of minit2i bench."""

    bundle: str
    against: tuple[str, ...]
    repeats: int
    warm_up: int
    texts: int
    batch: int
    prompt: str
    preset: str | None
    output: Path | None
    engine: EngineOptions
    json: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Contender:
    """A bundle on an engine, under a name in the report; without one, the engine's."""

    label: str
    bundle: Bundle
    engine: EngineOptions


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Time each stage of a bundle, on one engine or on several in turns."
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "--against",
        metavar=f"[BUNDLE@]{SPEC_FORM}",
        action="append",
        default=[],
        help="another engine or bundle to time in turns; may be given several times",
    )
    parser.add_argument(
        "--repeats",
        metavar="N",
        type=integer,
        default=10,
        help="timed calls per stage (default 10)",
    )
    parser.add_argument(
        "--warm-up", metavar="N", type=integer, default=2, help="calls before those (default 2)"
    )
    parser.add_argument(
        "--texts",
        metavar="N",
        type=integer,
        default=64,
        help="texts of the embed stage (default 64)",
    )
    parser.add_argument(
        "--batch", metavar="N", type=integer, default=32, help="texts encoded at once (default 32)"
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        default="a red circle above a blue square",
        help="prompt to time with",
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="table and guidance; default: the bundle's default preset"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help=".json file for the report, besides the text",
    )
    add_engine(parser)
    add_json(parser)


def run(options: BenchOptions) -> None:
    """Open every engine, measure and print."""
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.evaluation.bench.stages import prepare_subject
    from minit2i_deploy.evaluation.bench.timing import time_subjects
    from minit2i_deploy.machine import describe_machine
    from minit2i_deploy.progress import ProgressLine

    _check(options)
    if options.output is not None:
        output_paths.output_file(options.output, ".json")
    contenders = _contenders(options)
    with contextlib.ExitStack() as stack, ProgressLine("bench") as line:
        subjects = []
        for contender in contenders:
            runtime = stack.enter_context(
                open_engine(contender.bundle, contender.engine, keep_prompts=False)
            )
            subjects.append(
                prepare_subject(
                    contender.label or opened_spec(contender.engine, runtime),
                    contender.bundle,
                    runtime,
                    prompt=options.prompt,
                    preset=options.preset,
                    num_texts=options.texts,
                    batch_size=options.batch,
                )
            )
        results = time_subjects(
            subjects, repeats=options.repeats, warm_up=options.warm_up, progress=line
        )
    values = _values(results, describe_machine())
    if options.output is not None:
        output_paths.write_json(options.output, values)
    print(json_text(values) if options.json else _text(results, values))


def _check(options: BenchOptions) -> None:
    check_repeats("--repeats", options.repeats)
    check_repeats("--warm-up", options.warm_up, least=0)
    check_count("--texts", options.texts, MAX_TEXTS, "all of them are held in memory")
    check_least("--batch", options.batch, 1)


def _contenders(options: BenchOptions) -> list[_Contender]:
    """The first engine, and each --against with its threads and cache where it has such."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.runtimes import RUNTIMES

    first = _Contender(label="", bundle=Bundle.open(options.bundle), engine=options.engine)
    contenders = [first]
    for label in options.against:
        folder, _, spec = label.rpartition("@")
        try:
            engine = EngineOptions.from_spec(spec, beside=options.engine)
        except (ValueError, UsageError) as error:
            raise UsageError(
                f"--against: expected [BUNDLE@]{SPEC_FORM} with one of {', '.join(RUNTIMES)}, got "
                f"{label!r}"
            ) from error
        bundle = Bundle.open(bundle_path(folder)) if folder else first.bundle
        contenders.append(_Contender(label=label, bundle=bundle, engine=engine))
    return contenders


def _values(results: Sequence[SubjectTimings], machine: dict[str, Any]) -> dict[str, Any]:
    from minit2i_deploy.evaluation.bench.timing import speed_ratios

    subjects = [
        result.to_dict() | {"ratio_to_first": speed_ratios(results[0], result)}
        for result in results
    ]
    return {"machine": machine, "peak_memory_bytes": peak_memory_bytes(), "subjects": subjects}


def peak_memory_bytes() -> int | None:
    """Most memory that this process has had at once; None where the system does not report it."""
    # What resource reports on Linux may be that of the program which started this one.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS.
    return peak if sys.platform == "darwin" else peak * 1024


def _text(results: Sequence[SubjectTimings], values: dict[str, Any]) -> str:
    from minit2i_deploy.cli.support.formatting import columns, size
    from minit2i_deploy.machine import machine_line

    stages = []
    for result, subject in zip(results, values["subjects"], strict=True):
        for stage, timing in result.timings.items():
            ratio = subject["ratio_to_first"][stage]
            cells = (f"{timing.p50 * 1e3:.3f}", f"{timing.p95 * 1e3:.3f}", f"{ratio:.2f}")
            stages.append((result.label, stage, *cells))
    peak = values["peak_memory_bytes"]
    parts = [
        machine_line(values["machine"]),
        columns(stages, head=("engine", "stage", "p50 ms", "p95 ms", "ratio")),
        columns([_rate_cells(result) for result in results], head=_RATES) + _share_hint(results),
        f"peak memory of this process: {'unknown' if peak is None else size(peak)}",
    ]
    return "\n\n".join(parts)


def _rate_cells(result: SubjectTimings) -> tuple[str, ...]:
    return (
        result.label,
        f"{result.images_per_s:.4g}",
        f"{result.texts_per_s:.4g}",
        f"{result.step_flops / result.timings['step'].p50 / 1e9:.1f}",
        f"{result.matrix_rate / 1e9:.1f}",
        f"{result.step_share:.0%}",
        f"{result.difference:.1e}",
        "equal" if math.isinf(result.difference_db) else f"{result.difference_db:.1f}",
    )


def _share_hint(results: Sequence[SubjectTimings]) -> str:
    # The rate is the best of some products of floats.
    labels = [result.label for result in results if result.step_share > 1]
    if not labels:
        return ""
    return (
        f"\nshare above 100%: either {', '.join(labels)} computes in integers, where the rate is "
        "of floats, or other work slowed the machine while the rate was measured"
    )
