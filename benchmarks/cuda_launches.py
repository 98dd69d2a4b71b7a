"""Launches, copies and waits of a step on provider cuda, counted without a GPU.

    python benchmarks/cuda_launches.py                    # B/16 in each precision
    python benchmarks/cuda_launches.py --variant l-16 --precision fp16
    python benchmarks/cuda_launches.py BUNDLE...          # bundles as they are
    python benchmarks/cuda_launches.py --cpp              # by the C++ client

ONNX Runtime's real CUDA provider runs over stand-ins for CUDA's libraries
(tests/helpers/cuda_standin), which log its calls. Without a bundle, a published network with a few
blocks and random weights is exported as `minit2i export --for cuda` does, and launches are extended
to all blocks by what lies between two attentions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from minit2i_deploy.cli.support.formatting import columns
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.config import VARIANTS
from tests.helpers.cpp_client import build
from tests.helpers.cuda_standin.bundles import bundle_for_cuda, write_network
from tests.helpers.cuda_standin.census import (
    Census,
    CppCensus,
    StepCensus,
    cpp_census,
    cpp_image_run,
    take_census,
)

_Census = TypeVar("_Census", bound=StepCensus)

PRECISIONS: Final = ("fp16", "bf16", "fp32", "int8")
# The ends of the first and the last block differ from the rest.
_BLOCKS: Final = 3
# Of an image by the C++ client.
_ROWS: Final = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    if options.cpp:
        build()
        _show(list(_count_all(options, _take_cpp_census)), cpp_table, options.json)
    else:
        _show(list(_count_all(options, take_census)), table, options.json)
    return 0


def _show(
    rows: Sequence[tuple[str, _Census, int | None]],
    form: Callable[[Sequence[tuple[str, _Census, int | None]]], str],
    as_json: bool,
) -> None:
    if as_json:
        print(json.dumps([{"label": label, **census.to_dict()} for label, census, _ in rows]))
    else:
        print(form(rows))


def table(rows: Sequence[tuple[str, Census, int | None]]) -> str:
    """Label, census and number of blocks to extend to, one line each."""
    head = ("graph", "launches", "a block", "in all blocks", "copies in it", "copies an image",
            "waits an image")  # fmt: skip
    lines = [
        (label, f"{census.launches} ({census.blocks} blocks)", census.per_block,
         census.launches_of(blocks or census.blocks),
         census.graph_copies_of(blocks or census.blocks),
         census.image_copies_of(blocks or census.blocks), census.image_waits)
        for label, census, blocks in rows
    ]  # fmt: skip
    return columns([tuple(map(str, line)) for line in lines], head=head)


def cpp_table(rows: Sequence[tuple[str, CppCensus, int | None]]) -> str:
    """The same of the C++ client."""
    head = ("graph", "launches", "a block", "in all blocks", "copies in it", "copies of the start",
            "copies in rows", "waits in rows")  # fmt: skip
    lines = [
        (label, f"{census.launches} ({census.blocks} blocks)", census.per_block,
         census.launches_of(blocks or census.blocks),
         census.graph_copies_of(blocks or census.blocks),
         census.start_copies, census.row_copies, census.row_waits)
        for label, census, blocks in rows
    ]  # fmt: skip
    return columns([tuple(map(str, line)) for line in lines], head=head)


def _count_all(
    options: argparse.Namespace, take: Callable[[Path], _Census]
) -> Iterator[tuple[str, _Census, int | None]]:
    """Label, census and number of blocks to extend to, of each bundle or of the network."""
    for path in options.bundles:
        yield path, take(Path(path)), None
    if options.bundles:
        return
    blocks = VARIANTS[options.variant].depth_double
    with tempfile.TemporaryDirectory(prefix="minit2i-launches-") as folder:
        release = write_network(Path(folder) / "release", options.variant, options.blocks)
        for precision in options.precision or PRECISIONS:
            bundle = bundle_for_cuda(release, Path(folder), precision)
            yield f"{options.variant} {precision}", take(bundle.path), blocks


def _take_cpp_census(bundle: Path) -> CppCensus:
    return cpp_census(bundle, cpp_image_run(bundle, rows=_ROWS))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Launches of a step on provider cuda.")
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", help="bundles to count as they are")
    parser.add_argument("--variant", choices=VARIANTS, default="b-16", help="default: b-16")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="default: all")
    parser.add_argument("--blocks", type=int, default=_BLOCKS, help=f"default: {_BLOCKS}")
    parser.add_argument("--cpp", action="store_true", help="count the C++ client")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    if options.blocks < _BLOCKS:
        parser.error(f"--blocks must be at least {_BLOCKS}")
    return options


if __name__ == "__main__":
    sys.exit(run_script(main))
