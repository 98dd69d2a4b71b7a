"""minit2i quantize: a bundle to a bundle of 8 or 4 bits, or of quantized weights alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.gpu_names import TARGET_HELP, target_of
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_json,
    bundle_path,
    integer,
    number,
)
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle

_GRAPHS: Final = ("text_encoder", "text_adapter", "transformer")
_DIFF_HEAD: Final = ("input", "largest A", "largest B", "B to A", "99.9% A", "99.9% B")
_EPILOG: Final = """\
schemes (minit2i quantize --list describes each):
  int8 fp8 fp8-attention int8-weights int4-weights nvfp4 nvfp4-weights mxfp8 int8-cpu
  int8-openvino int8-text

What is not quantized stays in the source bundle's precision: quantize an fp16
bundle for NVIDIA GPUs, an fp32 one for CPUs. Ranges are kept beside OUT in a
hidden file, .OUT.calibration-partial.npz, until the bundle is complete; the
same command resumes an interrupted run from there.

examples:
  minit2i quantize my-bundle my-int8 --scheme int8
  minit2i quantize my-fp16 my-fp8 --scheme fp8 --target rtx4090 --prompts prompts.txt
  minit2i quantize my-bundle my-int8 --scheme int8 --exclude '*.txt_mlp.w2'
  minit2i quantize my-fp16 my-fp4 --scheme nvfp4 --target rtx5090 --low-rank 32
  minit2i quantize my-bundle my-texts --scheme int8-text
  minit2i quantize --calibration A.npz --diff B.npz
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeCommandOptions:
    """Options of minit2i quantize; None where one was not given."""

    bundle: str | None
    out: str | None
    scheme: str | None
    list: bool
    target: str | None
    switch_at: float | None
    overwrite: bool
    exclude: tuple[str, ...]
    exclude_from: Path | None
    include: tuple[str, ...]
    keep: tuple[str, ...]
    no_smoothing: bool
    rounding: str | None
    rotate: bool
    low_rank: int
    calibration: Path | None
    save_calibration: Path | None
    diff: Path | None
    prompts: Path | None
    samples: int | None
    seed: int | None
    clip: bool
    json: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Quantize a bundle, measure it against its source, and write the new bundle. Nothing is "
        "written if a check exceeds its bound."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "bundle", metavar="BUNDLE", nargs="?", type=bundle_path, help="bundle to quantize"
    )
    parser.add_argument("out", metavar="OUT", nargs="?", help="new folder for the bundle")
    parser.add_argument("--scheme", metavar="NAME", help="how to quantize it")
    parser.add_argument("--list", action="store_true", help="list the schemes and what each is for")
    parser.add_argument(
        "--target",
        metavar="NAME",
        help=f"what it is to run on, checked first: cpu, web, or {TARGET_HELP}",
    )
    parser.add_argument(
        "--switch-at",
        metavar="T",
        type=number,
        help="switch to the source's step graph for rows from this time on, 0 noise to 1 data; the "
        "new bundle contains both (onnxruntime and openvino in Python, and the C++ client)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    _add_layers(parser)
    _add_calibration(parser)
    add_json(parser)


def _add_layers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("layers")
    group.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="layers not to quantize, such as '*.w2'; may be given several times",
    )
    group.add_argument(
        "--exclude-from",
        metavar="FILE",
        type=Path,
        help="file of minit2i sensitivity --budget, whose excluded layers are not quantized",
    )
    group.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="layers to quantize although the scheme excludes them, such as 'final_layer.*'",
    )
    group.add_argument(
        "--keep",
        metavar="GRAPH",
        action="append",
        default=[],
        choices=_GRAPHS[:2],
        help="graph not to quantize: text_encoder or text_adapter",
    )
    group.add_argument(
        "--no-smoothing", action="store_true", help="do not smooth the ranges of channels"
    )
    group = parser.add_argument_group("weights of the step graph")
    group.add_argument(
        "--rounding",
        metavar="NAME",
        help="nearest, search (the scales of blocks) or gptq (each channel makes up for the errors "
        "before it); the default is the scheme's: gptq for 4 bits, nearest for others",
    )
    group.add_argument(
        "--rotate",
        action="store_true",
        help="mix channels by Hadamard matrices, folded into the weights around them",
    )
    group.add_argument(
        "--low-rank",
        metavar="N",
        type=integer,
        default=0,
        help="add a branch of this rank beside every layer, in the source's precision",
    )


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--calibration", metavar="FILE", type=Path, help="take ranges from this .npz file"
    )
    group.add_argument(
        "--save-calibration", metavar="FILE", type=Path, help="write the ranges to this .npz file"
    )
    group.add_argument("--diff", metavar="FILE", type=Path, help="compare --calibration with this")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help=".txt file to draw prompts from, one per line; - reads standard input",
    )
    group.add_argument(
        "--samples", metavar="N", type=integer, help="trajectories to draw (default 16)"
    )
    group.add_argument("--seed", metavar="N", type=integer, help="of the draw (default 0)")
    group.add_argument(
        "--clip",
        action="store_true",
        help="let the scale of an input clip the largest values where that lowers the error",
    )


def run(options: QuantizeCommandOptions) -> None:
    """List, compare two calibrations, or quantize and print the checks."""
    if options.list:
        _print_schemes(options)
    elif options.diff is not None:
        _print_diff(options)
    else:
        _check(options)
        _quantize(options)


def _check(options: QuantizeCommandOptions) -> None:
    if options.bundle is None or options.out is None or options.scheme is None:
        raise UsageError(
            "expected BUNDLE, OUT and --scheme, as in: minit2i quantize BUNDLE OUT --scheme int8"
        )
    for name in ("prompts", "samples", "seed"):
        if options.calibration is not None and getattr(options, name) is not None:
            raise UsageError(f"--calibration and --{name} are mutually exclusive")
    if options.save_calibration is not None:
        from minit2i_deploy.cli.support import output_paths

        output_paths.output_file(options.save_calibration, ".npz")


def _quantize(options: QuantizeCommandOptions) -> None:
    from minit2i_deploy.cli.support.standard_input import prompts_file
    from minit2i_deploy.export.quantize import DrawSettings, QuantizeOptions, quantize_bundle
    from minit2i_deploy.progress import ProgressLine

    assert options.bundle is not None and options.out is not None and options.scheme is not None
    draw = {name: getattr(options, name) for name in ("samples", "seed")}
    with prompts_file(options.prompts) as prompts, ProgressLine("quantize") as progress:
        bundle = quantize_bundle(
            options.bundle,
            options.out,
            QuantizeOptions(
                scheme=options.scheme,
                calibration=options.calibration,
                prompts=prompts,
                draw=DrawSettings(**{k: v for k, v in draw.items() if v is not None}),
                exclude=[*options.exclude, *_excluded_by_file(options)],
                include=options.include,
                graphs=[name for name in _GRAPHS if name not in options.keep],
                smoothing=not options.no_smoothing,
                rounding=options.rounding,
                rotate=options.rotate,
                low_rank=options.low_rank,
                clip=options.clip,
                target=None if options.target is None else target_of(options.target),
                switch_at=options.switch_at,
                save_calibration=options.save_calibration,
                overwrite=options.overwrite,
            ),
            progress=progress,
        )
    _print_bundle(options, bundle)


def _excluded_by_file(options: QuantizeCommandOptions) -> Sequence[str]:
    if options.exclude_from is None:
        return ()
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.export.quantize.sensitivity.results_file import read_exclusions

    assert options.bundle is not None and options.scheme is not None
    origin = Bundle.open(options.bundle).manifest.provenance
    return read_exclusions(
        options.exclude_from,
        checkpoint_sha256=origin.checkpoint_sha256,
        lora_sha256=origin.lora_sha256,
        scheme=options.scheme,
    )


def _print_bundle(options: QuantizeCommandOptions, bundle: Bundle) -> None:
    from minit2i_deploy.cli.support.formatting import check_lines, json_text, size
    from minit2i_deploy.io.strict_json import encode

    manifest = bundle.manifest
    assert manifest.quantization is not None
    if options.json:
        values: dict[str, Any] = {"bundle": str(bundle.path), "digest": bundle.digest}
        values |= {"bytes": manifest.num_bytes, "quantization": encode(manifest.quantization)}
        print(json_text(values | {"checks": encode(manifest.checks)}))
        return
    print(check_lines(manifest.checks))
    for name, graph in manifest.quantization.graphs.items():
        excluded = f", {len(graph.excluded)} excluded" if graph.excluded else ""
        print(f"{name}: {graph.scheme}, {graph.layers} layers{excluded}")
    if manifest.switch is not None:
        print(f"from t={manifest.switch.t:g} on: {manifest.switch.graph.precision}")
    total = f"{len(manifest.files)} files, {size(manifest.num_bytes)}"
    scheme = f"{manifest.quantization.scheme} on {manifest.quantization.base_precision}"
    print(f"{bundle.path}  {total}, {scheme}")


def _print_schemes(options: QuantizeCommandOptions) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text
    from minit2i_deploy.export.quantize import SCHEMES

    if options.json:
        print(json_text({name: scheme.purpose for name, scheme in SCHEMES.items()}))
        return
    print(columns([(name, scheme.purpose) for name, scheme in SCHEMES.items()]))


def _print_diff(options: QuantizeCommandOptions) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text
    from minit2i_deploy.export.quantize import Calibration, compare_ranges

    if options.calibration is None:
        raise UsageError("--diff requires --calibration FILE")
    assert options.diff is not None
    a, b = Calibration.load(options.calibration), Calibration.load(options.diff)
    rows = compare_ranges(a, b)
    if options.json:
        values = {"a": a.digest, "b": b.digest, "inputs": [row.to_dict() for row in rows]}
        print(json_text(values))
        return
    print(columns([_DIFF_HEAD, *(row.cells() for row in rows)]))
    same = "the same file" if a.digest == b.digest else "different files"
    print(f"{same}: {a.digest[:12]}.. and {b.digest[:12]}..")
