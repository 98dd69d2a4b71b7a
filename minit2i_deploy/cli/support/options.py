"""Arguments that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.protocol import Runtime
    from minit2i_deploy.solvers.table import Table

T = TypeVar("T", int, float)

# Options of add_engine that stand for an option of the same name, in runtimes that have it.
_ENGINE: Final = ("provider", "precision", "threads", "device", "compile")


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """BUNDLE."""
    parser.add_argument("bundle", metavar="BUNDLE", help="folder that minit2i export made")


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--runtime, --provider, --precision, --device, --compile and --threads."""
    from minit2i_deploy.runtimes import DEFAULT_RUNTIME, RUNTIMES

    group = parser.add_argument_group("engine", "minit2i doctor lists the options of each runtime")
    group.add_argument(
        "--runtime",
        metavar="NAME",
        default=DEFAULT_RUNTIME,
        help=f"one of {', '.join(RUNTIMES)} (default: {DEFAULT_RUNTIME}); fake runs no network and "
        "is for testing programs",
    )
    group.add_argument(
        "--provider",
        metavar="NAME",
        help="execution provider, for example of onnxruntime: cpu (default), openvino, cuda, "
        "tensorrt, tensorrt-rtx or auto",
    )
    group.add_argument(
        "--precision",
        metavar="NAME",
        help="what to compute in, in place of the bundle's precision: fp32, bf16 or fp16",
    )
    group.add_argument(
        "--device",
        metavar="DEVICE",
        help="cpu or cuda:0 for torch, the index of a GPU for tensorrt and tensorrt-rtx",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="compile the step at its first use, on a GPU into CUDA graphs",
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=int,
        help="CPU threads; 0 (default) is one for each core",
    )


def add_painting(parser: argparse.ArgumentParser, *, several_guidances: bool = False) -> None:
    """--preset, --table, --solver, --steps and --guidance, the last a tuple where several fit."""
    group = parser.add_argument_group("painting")
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="table and guidance that belong together; default: the bundle's default preset",
    )
    group.add_argument(
        "--table", metavar="NAME", help="a table of the bundle, or a .json file of minit2i table"
    )
    group.add_argument(
        "--solver", metavar="NAME", help="compile a solver; minit2i table --list names them"
    )
    group.add_argument(
        "--steps", metavar="N", type=int, help="steps of the solver (euler if none is named)"
    )
    group.add_argument(
        "--guidance",
        metavar="G,G.." if several_guidances else "G",
        type=numbers if several_guidances else float,
        help="guidance scale in place of the preset's; 1 is none",
    )


def add_adjustments(parser: argparse.ArgumentParser) -> None:
    """--interval, --clip and --rescale, of any table."""
    group = parser.add_argument_group("guidance of the table, in place of its own")
    group.add_argument(
        "--interval",
        metavar=("START", "END"),
        nargs=2,
        type=float,
        help="guide only rows with START <= t <= END",
    )
    group.add_argument(
        "--clip", metavar="C", type=float, help="bound on each estimate before guidance; 0: none"
    )
    group.add_argument(
        "--rescale", metavar="R", type=float, help="share of guidance rescale, 0 to 1"
    )


def numbers(words: str) -> tuple[float, ...]:
    """Numbers between commas.

    Raises:
        ArgumentTypeError: a word is none.
    """
    return _between_commas(words, float, "number")


def whole_numbers(words: str) -> tuple[int, ...]:
    """Whole numbers between commas.

    Raises:
        ArgumentTypeError: a word is none.
    """
    return _between_commas(words, int, "whole number")


def _between_commas(words: str, kind: Callable[[str], T], said: str) -> tuple[T, ...]:
    try:
        return tuple(kind(word) for word in words.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{words!r} is no {said}, and no list of them between commas"
        ) from None


def chosen_painting(bundle: Bundle, options: argparse.Namespace) -> tuple[Table, float]:
    """The table and the guidance scale that the options ask for.

    Raises:
        UsageError: options that exclude one another, or a name that is not there.
        BundleError: the bundle's table is damaged.
    """
    table, guidance = bundle.preset(options.preset)
    for name in ("table", "solver", "steps"):
        if options.preset is not None and getattr(options, name) is not None:
            raise UsageError(f"--preset came with --{name}; give one or the other")
    if options.table is not None:
        if options.solver is not None or options.steps is not None:
            raise UsageError("--table came with --solver or --steps; give one or the other")
        table = _named_table(bundle, options.table)
    elif options.steps is not None:
        table = bundle.compile_table(options.solver or "euler", options.steps)
    elif options.solver is not None:
        raise UsageError(f"--solver {options.solver} came without --steps; add --steps N")
    if options.guidance is not None:
        return table, options.guidance
    return table, guidance if table.student_guidance is None else table.student_guidance


def adjusted_table(table: Table, options: argparse.Namespace) -> Table:
    """A table as --interval, --clip and --rescale want it.

    Raises:
        UsageError: a number outside its range.
    """
    from minit2i_deploy.solvers.guidance import adjust_guidance

    interval = None if options.interval is None else tuple(options.interval)
    return adjust_guidance(table, interval=interval, clip=options.clip, rescale=options.rescale)


def opened_runtime(
    bundle: Bundle,
    options: argparse.Namespace,
    *,
    lean: bool = False,
    keep_prompts: bool = True,
) -> Runtime:
    """The runtime that the options ask for; use it in a ``with`` block.

    ``lean`` frees the text encoder when the denoiser is opened, in runtimes that can. Those that
    keep what they made of a prompt do not without ``keep_prompts``, so that it can be timed.

    Raises:
        UsageError: an unknown runtime, or a setting for one that does not have it.
        MissingDependencyError: its library is not installed.
        RuntimeFailure: it finds no device.
    """
    from minit2i_deploy.runtimes import open_runtime, runtime_class

    known = runtime_class(options.runtime).options()
    # Some commands take engines in another form and have only some of these options.
    values = {name: getattr(options, name, None) for name in _ENGINE}
    settings = {name: value for name, value in values.items() if value is not None}
    if unknown := [name for name in settings if name not in known]:
        choices = ", ".join(f"--{name}" for name in _ENGINE if name in known)
        choices = choices or "none of the engine's options"
        raise UsageError(f"runtime {options.runtime} has no --{unknown[0]}; it takes {choices}")
    if "device" in settings and isinstance(known["device"].default, int):
        settings["device"] = _device_index(options.runtime, settings["device"])
    if lean and "lean" in known:
        settings["lean"] = True
    if not keep_prompts and "keep_prompts" in known:
        settings["keep_prompts"] = False
    runtime = open_runtime(bundle, options.runtime, **settings)
    if options.provider == "auto":
        provider = getattr(runtime, "provider", "")
        sys.stderr.write(f"minit2i: provider {provider} (chosen by auto)\n")
    return runtime


def _device_index(runtime: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(
            f"--device is {text!r}, but runtime {runtime} takes the index of a GPU"
        ) from None


def _named_table(bundle: Bundle, name: str) -> Table:
    from minit2i_deploy.solvers.table import Table

    return Table.load(Path(name)) if name.endswith(".json") else bundle.table(name)
