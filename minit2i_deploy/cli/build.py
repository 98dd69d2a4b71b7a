"""minit2i build: build TensorRT engines of a bundle's graphs."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.gpu_names import TARGET_HELP, target_of
from minit2i_deploy.cli.support.limits import check_least
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_bundle,
    add_json,
    integer,
    number,
)
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.engines.cache import PlannedBuild
    from minit2i_deploy.export.tensorrt import BuildOptions, Outcome

_GRAPHS: Final = ("text_encoder", "text_adapter", "transformer")
_EPILOG: Final = """\
TensorRT-RTX (--engine tensorrt-rtx) builds without a GPU, for the GPUs of --target,
or without --target for all that it knows from Ampere on. TensorRT builds on the GPU
that will run the engine.

Engines are kept in BUNDLE/engines/ under a fingerprint of graph, sizes, flags,
library, version and GPU. An engine that is current is not built again.

examples:
  minit2i build my-bundle --engine tensorrt-rtx --target rtx4090 sm120
  minit2i build my-bundle --engine tensorrt --max-batch 4 --require-fused all
  minit2i build my-bundle --engine tensorrt-rtx --plan
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildCommandOptions:
    """Options of minit2i build; None where one was not given."""

    bundle: str
    engine: str
    plan: bool
    force: bool
    target: tuple[str, ...]
    graph: tuple[str, ...] | None
    batch: int
    max_batch: int | None
    branches: tuple[int, int]
    texts: int
    device: int
    refit: bool
    strip_weights: bool
    version_compatible: bool
    hardware_compatible: str | None
    tf32: bool
    allow_unfused: bool
    workspace: float | None
    optimization_level: int | None
    timing_cache: Path | None
    require_fused: float
    wait: float
    debug: bool
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Build the TensorRT engines of a bundle's graphs that are missing or not current."
    )
    parser.epilog = _EPILOG
    add_bundle(parser)
    parser.add_argument(
        "--engine",
        required=True,
        choices=("tensorrt", "tensorrt-rtx"),
        help="the runtime that builds and will run the engines (minit2i help engines)",
    )
    parser.add_argument("--plan", action="store_true", help="print what would be built and why")
    parser.add_argument("--force", action="store_true", help="build current engines as well")
    _add_sizes(parser)
    _add_flags(parser)
    add_json(parser)


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is built")
    group.add_argument(
        "--target",
        metavar="GPU",
        nargs="+",
        action="extend",
        default=[],
        help=f"GPUs of TensorRT-RTX engines: {TARGET_HELP}, or native for the one of this machine",
    )
    group.add_argument(
        "--graph", choices=_GRAPHS, action="append", help="build this graph only; may be repeated"
    )
    group.add_argument(
        "--batch",
        metavar="N",
        type=integer,
        default=1,
        help="images at once to tune for (default 1)",
    )
    group.add_argument(
        "--max-batch", metavar="N", type=integer, help="most images at once (default: --batch)"
    )
    group.add_argument(
        "--branches",
        metavar="LEAST,MOST",
        type=_parse_range,
        default=(1, 2),
        help="fewest and most branches of guidance (default 1,2)",
    )
    group.add_argument(
        "--texts",
        metavar="N",
        type=integer,
        default=32,
        help="most texts at once in the text encoder (default 32)",
    )
    group.add_argument(
        "--device",
        metavar="N",
        type=integer,
        default=0,
        help="index of the GPU that TensorRT builds on (default 0)",
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("flags of the build")
    group.add_argument(
        "--refit", action="store_true", help="let minit2i refit replace the weights later"
    )
    group.add_argument(
        "--strip-weights",
        action="store_true",
        help="do not store the weights, which a refit then adds",
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="let later versions of the same major version run an engine of TensorRT",
    )
    group.add_argument(
        "--hardware-compatible",
        choices=("same-capability", "ampere-plus"),
        help="let other GPUs run an engine of TensorRT",
    )
    group.add_argument(
        "--tf32", action="store_true", help="let fp32 matrix products round to ten bits"
    )
    group.add_argument(
        "--allow-unfused",
        action="store_true",
        help="decompose attention that the library has no kernel for",
    )
    group.add_argument(
        "--workspace", metavar="GB", type=number, help="most scratch memory of a kernel"
    )
    group.add_argument(
        "--optimization-level",
        metavar="0..5",
        type=integer,
        help="effort of the search for kernels; default: the library's",
    )
    group.add_argument(
        "--timing-cache",
        metavar="FILE",
        type=Path,
        help="file for measured kernel times, reused by later builds (TensorRT only)",
    )
    group.add_argument(
        "--require-fused",
        metavar="N|SHARE|all",
        type=_parse_share,
        default=0.0,
        help="fail if fewer of the transformer's attentions are fused, as a number, 90%% or all",
    )
    group.add_argument(
        "--wait",
        metavar="S",
        type=number,
        default=0.0,
        help="seconds to wait for another build of the same engine (default 0)",
    )


def run(options: BuildCommandOptions) -> None:
    """Plan or build, and print."""
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.cli.support.native_stderr import quiet_libraries
    from minit2i_deploy.export.tensorrt import build_bundle, plan_bundle
    from minit2i_deploy.progress import ProgressLine

    bundle, settings = Bundle.open(options.bundle), _settings(options)
    if options.plan:
        _print_plan(bundle, plan_bundle(bundle, settings), as_json=options.json)
        return
    # The libraries print their errors besides returning them.
    with (
        quiet_libraries(enabled=not options.debug) as stderr,
        ProgressLine("build", stderr) as line,
    ):
        outcomes = build_bundle(
            bundle,
            settings,
            force=options.force,
            progress=line,
        )
    _print_outcomes(outcomes, as_json=options.json)


def _settings(options: BuildCommandOptions) -> BuildOptions:
    from minit2i_deploy.engines.key import BuildFlags
    from minit2i_deploy.export.tensorrt import BuildOptions

    check_least("--wait", options.wait, 0)
    if options.timing_cache is not None and options.engine != "tensorrt":
        raise UsageError(
            f"--timing-cache requires --engine tensorrt; {options.engine} measures no kernels"
        )
    workspace = options.workspace
    try:
        flags = BuildFlags(
            refit=options.refit or options.strip_weights,
            strip_weights=options.strip_weights,
            version_compatible=options.version_compatible,
            hardware_level=options.hardware_compatible or "none",
            workspace_bytes=None if workspace is None else int(workspace * 1e9),
            optimization_level=options.optimization_level,
            tf32=options.tf32,
            allow_unfused=options.allow_unfused,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    return BuildOptions(
        library=options.engine.replace("-", "_"),
        targets=tuple(dict.fromkeys(map(target_of, options.target))),
        graphs=tuple(name for name in _GRAPHS if name in (options.graph or _GRAPHS)),
        batch=options.batch,
        max_batch=options.max_batch,
        branches=options.branches,
        texts=options.texts,
        flags=flags,
        require_fused=options.require_fused,
        timing_cache=options.timing_cache,
        wait_s=options.wait,
        device=options.device,
    )


def _print_plan(bundle: Bundle, planned: tuple[PlannedBuild, ...], *, as_json: bool) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text, size
    from minit2i_deploy.export.tensorrt.memory_estimate import expected_memory_bytes
    from minit2i_deploy.export.tensorrt.process_memory import available_bytes

    memory = [expected_memory_bytes(bundle, item.key.graph) for item in planned]
    available = available_bytes()
    if as_json:
        values = [
            {
                "graph": item.key.graph,
                "fingerprint": item.fingerprint,
                "build": not item.current,
                "reason": item.reason,
                "memory_bytes": num_bytes,
                "words": item.key.describe(),
            }
            for item, num_bytes in zip(planned, memory, strict=True)
        ]
        print(json_text({"available_bytes": available, "engines": values}))
        return
    rows = [
        (
            item.key.graph,
            item.fingerprint,
            "keep" if item.current else "build",
            "" if item.current else size(num_bytes),
            item.reason,
        )
        for item, num_bytes in zip(planned, memory, strict=True)
    ]
    print(columns(rows, head=("graph", "engine", "", "memory", "why")))
    if available is not None and max(memory) > available:
        print(f"warning: only {size(available)} of memory are available")


def _print_outcomes(outcomes: tuple[Outcome, ...], *, as_json: bool) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text, size
    from minit2i_deploy.export.tensorrt.audit import describe_audit
    from minit2i_deploy.io.strict_json import encode

    if as_json:
        values: list[dict[str, Any]] = [
            {
                "folder": str(item.engine.folder),
                "built": item.built,
                "reason": item.reason,
                **encode(item.engine.record),
            }
            for item in outcomes
        ]
        print(json_text(values))
        return
    rows = []
    for item in outcomes:
        record = item.engine.record
        done = f"built in {record.build_s:.1f} s" if item.built else "current"
        name = item.engine.folder.name
        rows.append(
            (record.key.graph, name, size(record.plan_bytes), done, describe_audit(record.audit))
        )
    print(columns(rows, head=("graph", "engine", "size", "", "kernels")))


def _parse_range(text: str) -> tuple[int, int]:
    least, _, most = text.partition(",")
    try:
        return int(least), int(most or least)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected LEAST,MOST such as 1,2, got {text!r}"
        ) from error


def _parse_share(text: str) -> float:
    if text == "all":
        return 1.0
    is_share = text.endswith("%")
    expected = f"expected all, a share such as 90%, or an integer of at least 2, got {text!r}"
    try:
        value = float(text.removesuffix("%"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(expected) from error
    if not is_share and (value != int(value) or value < 2):
        raise argparse.ArgumentTypeError(expected)
    return value / 100 if is_share else value
