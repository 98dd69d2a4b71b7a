"""minit2i bench: time of each stage of a bundle, on one engine or on several in turns."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.counts import MAX_TEXTS, check_count, check_repeats
from minit2i_deploy.cli.support.engine_spec import FORM, engine_options, engine_words
from minit2i_deploy.cli.support.options import add_bundle, add_engine, add_json, opened_runtime
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.evaluation.bench.timing import SubjectTimings

_EPILOG: Final = """\
Stages: tokenise, encode and adapt one prompt; one step of the table with all its
branches; the state to a picture; embed, --texts short texts in batches. images/s
adds up the medians over the rows of the preset's table. The share is the step's
arithmetic a second over that of large matrix products on the same engine.

Each --against is timed in turns with the first engine (A B A B); a ratio above 1
says how many times faster it is, by the median over the turns.

examples:
  minit2i bench my-bundle --threads 2
  minit2i bench my-bundle --against openvino::bf16 --against onnxruntime:openvino
  minit2i bench my-bundle --against other-bundle@onnxruntime --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Time each stage of a bundle, on one engine or on several in turns."
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "--against",
        metavar=f"[BUNDLE@]{FORM}",
        action="append",
        default=[],
        help="another engine or bundle to time in turns; may be given several times",
    )
    parser.add_argument(
        "--repeats", metavar="N", type=int, default=10, help="timed calls a stage (default: 10)"
    )
    parser.add_argument(
        "--warm-up", metavar="N", type=int, default=2, help="calls before those (default: 2)"
    )
    parser.add_argument(
        "--texts", metavar="N", type=int, default=64, help="texts of the embed stage (default: 64)"
    )
    parser.add_argument("--batch", metavar="N", type=int, default=32, help="of those (default: 32)")
    parser.add_argument(
        "--prompt", metavar="TEXT", default="a red circle above a blue square", help="to time with"
    )
    parser.add_argument("--preset", metavar="NAME", help="default: the bundle's default preset")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help=".json file to write as well"
    )
    add_engine(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    """Open all, measure and print."""
    from minit2i_deploy.cli.support import output_paths
    from minit2i_deploy.cli.support.formatting import json_text
    from minit2i_deploy.evaluation.bench.stages import prepare_subject
    from minit2i_deploy.evaluation.bench.timing import time_subjects
    from minit2i_deploy.machine import describe_machine
    from minit2i_deploy.progress import ProgressLine

    _check(options)
    if options.output is not None:
        output_paths.output_file(options.output, ".json")
    engines = [_own_engine(options), *(_engine(words, options) for words in options.against)]
    with contextlib.ExitStack() as stack, ProgressLine("bench") as line:
        subjects = []
        for label, bundle, settings in engines:
            runtime = stack.enter_context(opened_runtime(bundle, settings, keep_prompts=False))
            subjects.append(
                prepare_subject(
                    label,
                    bundle,
                    runtime,
                    prompt=options.prompt,
                    preset=options.preset,
                    num_texts=options.texts,
                    batch_size=options.batch,
                )
            )
        found = time_subjects(
            subjects, repeats=options.repeats, warm_up=options.warm_up, progress=line
        )
    values = _values(found, describe_machine())
    if options.output is not None:
        output_paths.write_json(options.output, values)
    print(json_text(values) if options.json else _text(found, values))


def _check(options: argparse.Namespace) -> None:
    check_repeats("--repeats", options.repeats)
    check_repeats("--warm-up", options.warm_up, least=0)
    check_count("--texts", options.texts, MAX_TEXTS, "all of them are held at once")
    if options.batch < 1:
        raise UsageError(f"--batch is {options.batch}, but at least 1 is needed")


def _own_engine(options: argparse.Namespace) -> tuple[str, Bundle, argparse.Namespace]:
    from minit2i_deploy.bundle.bundle import Bundle

    return engine_words(options), Bundle.open(options.bundle), options


def _engine(words: str, options: argparse.Namespace) -> tuple[str, Bundle, argparse.Namespace]:
    """What one --against asks for, with the threads of the first engine where it has such."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.runtimes import RUNTIMES

    folder, _, engine = words.rpartition("@")
    try:
        settings = engine_options(engine, threads=options.threads)
        if settings.runtime not in RUNTIMES:
            raise ValueError(settings.runtime)
    except ValueError as error:
        raise UsageError(
            f"--against {words!r} is not [BUNDLE@]{FORM} with one of {', '.join(RUNTIMES)}"
        ) from error
    return words, Bundle.open(folder or options.bundle), settings


def _values(found: Sequence[SubjectTimings], machine: dict[str, Any]) -> dict[str, Any]:
    from minit2i_deploy.evaluation.bench.timing import speed_ratios

    subjects = [measured.to_dict() for measured in found]
    for measured, values in zip(found, subjects, strict=True):
        values["ratio_to_first"] = speed_ratios(found[0], measured)
        # JSON has no NaN: pictures of two sizes have no difference.
        if values["difference"] != values["difference"]:
            values["difference"] = None
    return {"machine": machine, "peak_memory_bytes": peak_memory_bytes(), "subjects": subjects}


def peak_memory_bytes() -> int | None:
    """Most memory this process has held at once; None where the system does not tell."""
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


def _text(found: Sequence[SubjectTimings], values: dict[str, Any]) -> str:
    from minit2i_deploy.cli.support.formatting import columns, size
    from minit2i_deploy.machine import machine_line

    rows = []
    for measured, told in zip(found, values["subjects"], strict=True):
        for stage, timing in measured.timings.items():
            ratio = told["ratio_to_first"][stage]
            times = (f"{timing.p50 * 1e3:.3f}", f"{timing.p95 * 1e3:.3f}", f"{ratio:.2f}")
            rows.append((measured.label, stage, *times))
    rates = [
        (
            measured.label,
            f"{measured.images_per_s:.4g}",
            f"{measured.texts_per_s:.4g}",
            f"{measured.step_flops / measured.timings['step'].p50 / 1e9:.1f}",
            f"{measured.matrix_rate / 1e9:.1f}",
            f"{measured.step_share:.0%}",
            f"{measured.difference:.1e}",
        )
        for measured in found
    ]
    peak = values["peak_memory_bytes"]
    # The rate is the best of some products of floats.
    odd = [measured.label for measured in found if measured.step_share > 1]
    hint = (
        f"\nshare above 100%: either {', '.join(odd)} computes in integers, where the rate is of "
        "floats, or other work slowed the machine while the rate was measured"
        if odd
        else ""
    )
    parts = [
        machine_line(values["machine"]),
        columns(rows, head=("engine", "stage", "p50 ms", "p95 ms", "ratio")),
        columns(
            rates,
            head=("engine", "images/s", "texts/s", "GFLOP/s", "matrix", "share", "difference"),
        )
        + hint,
        f"peak memory of this process: {'unknown' if peak is None else size(peak)}",
    ]
    return "\n\n".join(parts)
