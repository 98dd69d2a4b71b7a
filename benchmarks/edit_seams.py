"""What feathering does to the border of a mask: its seam, and the colors on both sides.

    python benchmarks/edit_seams.py demo --count 24 --feathers 0,1,2,4,8

Images of held-out captions are generated; then their right half is generated again with the same
caption and another seed, while the left half stays. Without an edit the first images show the same
figures, which is the line to compare with.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.demo.ready import READY, ready_bundle
from minit2i_deploy.editing.feather import feathered
from minit2i_deploy.evaluation.quality.image_metrics import seam_gradients, seam_ratios
from minit2i_deploy.evaluation.shapes import held_out_captions
from minit2i_deploy.generate import generate
from minit2i_deploy.machine import describe_machine, machine_line
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.runtimes import open_runtime

# Columns on each side of the border whose mean color is compared, and that hold every feather.
_BAND: Final = 8
_BATCH: Final = 8
_OTHER_SEEDS: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Border:
    """Figures of the border between the known and the generated half.

    Args:
        feather: pixels, None for images without an edit.
        seam: gradient across the border over gradient elsewhere; 1 is no seam.
        steepest: largest gradient of a pair of columns near the border, of 255 levels.
        color: difference of the mean colors beside the border, of 255 levels.
        changed: share of the known pixels whose bytes differ.
    """

    feather: float | None
    seam: float
    steepest: float
    color: float
    changed: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parse(arguments)
    bundle = Bundle.open(
        ready_bundle(options.bundle) if options.bundle in READY else options.bundle
    )
    with open_runtime(bundle, "onnxruntime", threads=options.threads) as runtime:
        borders = measure(bundle, runtime, options)
    if options.json:
        print(json.dumps([asdict(one) for one in borders], indent=2))
        return 0
    print(f"{options.count} images, {machine_line(describe_machine())}")
    print("feather    seam  steepest  color  known bytes changed")
    for one in borders:
        name = "no edit" if one.feather is None else f"{one.feather:g} px"
        print(f"{name:8} {one.seam:6.2f} {one.steepest:9.1f} {one.color:6.1f} {one.changed:8.1%}")
    return 0


def measure(bundle: Bundle, runtime: Runtime, options: argparse.Namespace) -> list[Border]:
    """Figures of the images without an edit, then of each feather."""
    captions = [caption for _, caption in held_out_captions(-(-options.count // 6), 0)]
    captions = captions[: options.count]
    settings: dict[str, Any] = {}
    if options.preset is not None:
        settings["table"], settings["guidance"] = bundle.preset(options.preset)
    seeds = np.arange(len(captions))
    first = _generate(bundle, runtime, captions, seeds, {})
    side = bundle.config.image_size
    mask = np.zeros((side, side), np.float32)
    mask[:, side // 2 :] = 1
    borders = [border(first, first, None)]
    for feather in options.feathers:
        edit = {"known": first, "mask": feathered(mask, feather)}
        edited = _generate(bundle, runtime, captions, seeds + _OTHER_SEEDS, settings, edit)
        borders.append(border(edited, first, feather))
    return borders


def border(x: np.ndarray, first: np.ndarray, feather: float | None) -> Border:
    """Figures of images whose left half is that of ``first``, float32 [images, 3, H, W]."""
    middle = x.shape[3] // 2
    levels = np.clip(x, -1, 1) * 127.5
    near = levels[..., middle - _BAND - 1 : middle + _BAND + 1]
    gradients = np.abs(np.diff(near, axis=3)).mean(axis=(1, 2))
    left, right = levels[..., middle - _BAND : middle], levels[..., middle : middle + _BAND]
    means = [half.mean(axis=(2, 3)) for half in (left, right)]
    known = [np.rint(np.clip(one[..., :middle], -1, 1) * 127.5) for one in (x, first)]
    # Patches as large as half an image have one border, which is that of the mask.
    seam = seam_ratios(seam_gradients(x, middle))[0]
    return Border(
        feather=feather,
        seam=float("nan") if seam is None else seam,
        steepest=float(gradients.max(axis=1).mean()),
        color=float(np.abs(means[0] - means[1]).mean()),
        changed=float((known[0] != known[1]).any(axis=1).mean()),
    )


def _generate(
    bundle: Bundle,
    runtime: Runtime,
    captions: Sequence[str],
    seeds: np.ndarray,
    settings: dict[str, Any],
    edit: dict[str, np.ndarray] | None = None,
) -> np.ndarray:
    parts = []
    for start in range(0, len(captions), _BATCH):
        part = slice(start, start + _BATCH)
        changes = {} if edit is None else {**edit, "known": edit["known"][part]}
        result = generate(
            bundle, runtime, captions[part], seed=seeds[part].tolist(), **settings, **changes
        )
        parts.append(result.x)
    return np.concatenate(parts)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seams of inpainting by feather.")
    parser.add_argument("bundle", help="a bundle, or the name of a ready one")
    parser.add_argument("--count", type=int, default=24, help="images (default 24)")
    parser.add_argument(
        "--feathers",
        type=lambda text: tuple(float(part) for part in text.split(",")),
        default=(0.0, 1.0, 2.0, 4.0, 8.0),
        help="pixels, comma-separated (default 0,1,2,4,8)",
    )
    parser.add_argument("--preset", help="of the edits; default: what one takes without a table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.count < 1 or not all(0 <= feather <= _BAND for feather in options.feathers):
        parser.error(f"--count must be at least 1, and feathers 0 to {_BAND} pixels")
    return options


if __name__ == "__main__":
    sys.exit(run_script(main))
