"""minit2i quantize: a bundle to an INT8, FP8 or weight-only bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minit2i_deploy.cli.support.options import add_json
from minit2i_deploy.errors import UsageError

if TYPE_CHECKING:
    from minit2i_deploy.bundle.bundle import Bundle

_GRAPHS: Final = ("text_encoder", "text_adapter", "transformer")
_DIFF_HEAD: Final = ("input", "largest A", "largest B", "B to A", "99.9% A", "99.9% B")
_EPILOG: Final = """\
schemes (minit2i quantize --list says what each is for):
  int8 fp8 fp8-attention int8-weights int4-weights int8-cpu

What is not quantised stays in the source bundle's precision: quantise an fp16
bundle for NVIDIA cards, an fp32 one for CPUs. Ranges are kept beside OUT as
OUT.calibration.npz until the bundle is whole; a run that was interrupted takes
them from there.

examples:
  minit2i quantize my-bundle my-int8 --scheme int8
  minit2i quantize my-fp16 my-fp8 --scheme fp8 --target sm89 --prompts prompts.txt
  minit2i quantize my-bundle my-int8 --scheme int8 --exclude '*.txt_mlp.w2'
  minit2i quantize --calibration A.npz --diff B.npz
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Quantise a bundle, measure it against its source, and write the new bundle. "
        "Over a bound there is none."
    )
    parser.epilog = _EPILOG
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="folder to quantise")
    parser.add_argument("out", metavar="OUT", nargs="?", help="new folder for the bundle")
    parser.add_argument("--scheme", metavar="NAME", help="what to make of it")
    parser.add_argument("--list", action="store_true", help="say what each scheme is for")
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="what it is to run on, checked first: cpu, or an NVIDIA card such as sm89",
    )
    parser.add_argument(
        "--late-from",
        metavar="T",
        type=float,
        help="rows from this time on, 0 noise to 1 data, run the source's step graph, which the "
        "new bundle holds as well (onnxruntime and openvino in Python, and the C++ client)",
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
        help="layers that stay as they are, such as '*.w2'; may be given several times",
    )
    group.add_argument(
        "--exclude-from",
        metavar="FILE",
        type=Path,
        help="layers that minit2i sensitivity found too costly under its budget",
    )
    group.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="layers to quantise although the scheme leaves them, such as 'final_layer.*'",
    )
    group.add_argument(
        "--keep",
        metavar="GRAPH",
        action="append",
        default=[],
        choices=_GRAPHS[:2],
        help="graph to leave as it is: text_encoder or text_adapter",
    )
    group.add_argument(
        "--no-smoothing", action="store_true", help="leave the ranges of channels as they are"
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
        "--prompts", metavar="FILE", type=Path, help="text file to draw prompts from, one a line"
    )
    group.add_argument(
        "--samples", metavar="N", type=int, help="trajectories that are drawn (default 16)"
    )
    group.add_argument("--seed", metavar="N", type=int, help="of the draw (default 0)")
    group.add_argument(
        "--clip",
        action="store_true",
        help="let an input's scale clip the largest values where that leaves less error",
    )


def run(options: argparse.Namespace) -> None:
    """List, compare two calibrations, or quantise and print the checks."""
    if options.list:
        _print_schemes(options)
    elif options.diff is not None:
        _print_diff(options)
    else:
        _check(options)
        _quantize(options)


def _check(options: argparse.Namespace) -> None:
    if options.bundle is None or options.out is None or options.scheme is None:
        raise UsageError(
            "a bundle, a folder for the new one and --scheme are needed: "
            "minit2i quantize BUNDLE OUT --scheme int8"
        )
    drawn = {name: getattr(options, name) for name in ("prompts", "samples", "seed")}
    given = [f"--{name}" for name, value in drawn.items() if value is not None]
    if options.calibration is not None and given:
        raise UsageError(f"--calibration holds what {given[0]} would draw; give one of them")
    if options.save_calibration is not None:
        from minit2i_deploy.cli.support import output_paths

        output_paths.output_file(options.save_calibration, ".npz")


def _quantize(options: argparse.Namespace) -> None:
    from minit2i_deploy.export.quantize import DrawSettings, quantize_bundle
    from minit2i_deploy.progress import ProgressLine

    chosen = {name: getattr(options, name) for name in ("samples", "seed")}
    with ProgressLine("quantize") as progress:
        bundle = quantize_bundle(
            options.bundle,
            options.out,
            options.scheme,
            calibration=options.calibration,
            prompts=options.prompts,
            settings=DrawSettings(**{k: v for k, v in chosen.items() if v is not None}),
            exclude=[*options.exclude, *_found_layers(options)],
            include=options.include,
            graphs=[name for name in _GRAPHS if name not in options.keep],
            smoothing=not options.no_smoothing,
            clip=options.clip,
            target=options.target,
            late_from=options.late_from,
            save_calibration=options.save_calibration,
            overwrite=options.overwrite,
            progress=progress,
        )
    _print_bundle(options, bundle)


def _found_layers(options: argparse.Namespace) -> Sequence[str]:
    if options.exclude_from is None:
        return ()
    from minit2i_deploy.bundle.bundle import Bundle
    from minit2i_deploy.export.quantize.sensitivity.results_file import read_exclusions

    origin = Bundle.open(options.bundle).manifest.provenance.checkpoint_sha256
    return read_exclusions(options.exclude_from, checkpoint_sha256=origin, scheme=options.scheme)


def _print_bundle(options: argparse.Namespace, bundle: Bundle) -> None:
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
        left = f", {len(graph.excluded)} left as they were" if graph.excluded else ""
        print(f"{name}: {graph.scheme}, {graph.layers} layers{left}")
    if manifest.switch is not None:
        print(f"from t={manifest.switch.t:g} on: {manifest.switch.graph.precision}")
    total = f"{len(manifest.files)} files, {size(manifest.num_bytes)}"
    words = f"{manifest.quantization.scheme} on {manifest.quantization.base_precision}"
    print(f"{bundle.path}  {total}, {words}")


def _print_schemes(options: argparse.Namespace) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text
    from minit2i_deploy.export.quantize import SCHEMES

    if options.json:
        print(json_text({name: scheme.words for name, scheme in SCHEMES.items()}))
        return
    print(columns([(name, scheme.words) for name, scheme in SCHEMES.items()]))


def _print_diff(options: argparse.Namespace) -> None:
    from minit2i_deploy.cli.support.formatting import columns, json_text
    from minit2i_deploy.export.quantize import Calibration, compare_ranges

    if options.calibration is None:
        raise UsageError("--diff compares with --calibration FILE; give both")
    one, other = Calibration.load(options.calibration), Calibration.load(options.diff)
    rows = compare_ranges(one, other)
    if options.json:
        values = {"a": one.digest, "b": other.digest, "inputs": [row.to_dict() for row in rows]}
        print(json_text(values))
        return
    print(columns([_DIFF_HEAD, *(row.cells() for row in rows)]))
    same = "the same file" if one.digest == other.digest else "different files"
    print(f"{same}: {one.digest[:12]}.. and {other.digest[:12]}..")
