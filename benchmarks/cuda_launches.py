"""Launches, copies and waits of a step on provider cuda, counted without a GPU.

    python benchmarks/cuda_launches.py                    # B/16 in each precision
    python benchmarks/cuda_launches.py --variant l-16 --precision fp16
    python benchmarks/cuda_launches.py BUNDLE...          # bundles as they are
    python benchmarks/cuda_launches.py --cpp --precision fp16    # by the C++ client

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
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.formatting import columns
from minit2i_deploy.config import VARIANTS
from tests.helpers.cpp_client import build
from tests.helpers.cuda_standin.bundles import export_for_cuda, write_network
from tests.helpers.cuda_standin.census import Census, cpp_census, cpp_image_run, take_census

PRECISIONS: Final = ("fp16", "bf16", "fp32")
# The ends of the first and the last block differ from the rest.
_BLOCKS: Final = 3
# Of an image by the C++ client.
_ROWS: Final = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    if options.cpp:
        print(cpp_table(options))
        return 0
    rows = [(path, take_census(Path(path)), None) for path in options.bundles]
    if not rows:
        rows = list(_count_network(options))
    if options.json:
        print(json.dumps([{"label": label, **census.to_dict()} for label, census, _ in rows]))
    else:
        print(table(rows))
    return 0


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


def cpp_table(options: argparse.Namespace) -> str:
    """The same of the C++ client, for networks with the blocks that they have."""
    build()
    with tempfile.TemporaryDirectory(prefix="minit2i-launches-") as folder:
        bundles = {path: Path(path) for path in options.bundles}
        if not bundles:
            exported = _export_network(options, Path(folder))
            bundles = {label: bundle.path for label, bundle in exported.items()}
        lines = [
            (label, *astuple(cpp_census(cpp_image_run(path, rows=_ROWS))))
            for label, path in bundles.items()
        ]
    head = ("graph", "launches", "copies in it", "copies of the start", "copies in rows",
            "waits in rows")  # fmt: skip
    return columns([tuple(map(str, line)) for line in lines], head=head)


def _export_network(options: argparse.Namespace, folder: Path) -> dict[str, Bundle]:
    release = write_network(folder / "release", options.variant, options.blocks)
    return {
        f"{options.variant} {precision}": export_for_cuda(release, folder / precision, precision)
        for precision in options.precision or PRECISIONS
    }


def _count_network(options: argparse.Namespace) -> list[tuple[str, Census, int]]:
    blocks = VARIANTS[options.variant].depth_double
    with tempfile.TemporaryDirectory(prefix="minit2i-launches-") as folder:
        bundles = _export_network(options, Path(folder))
        return [(label, take_census(bundle.path), blocks) for label, bundle in bundles.items()]


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
    sys.exit(main())
