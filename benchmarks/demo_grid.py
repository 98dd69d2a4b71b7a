"""A sheet of images by a bundle, one row for each kind of held-out caption.

    python benchmarks/demo_grid.py BUNDLE docs/images/demo-grid.png

Images that the detector judges wrong get a red frame; none is selected or excluded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import ImageOps

import minit2i_deploy as m
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.evaluation.shapes import held_out_captions, judge
from minit2i_deploy.io.images import grid, to_uint8

SCALE, FRAME = 2, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("output", type=Path)
    parser.add_argument("--per-kind", type=int, default=6)
    parser.add_argument("--preset", default="balanced")
    options = parser.parse_args()
    bundle = m.Bundle.open(options.bundle)
    captions = held_out_captions(options.per_kind, 0)
    table, guidance = bundle.preset(options.preset)
    with m.open_runtime(bundle) as runtime:
        result = m.generate(
            bundle,
            runtime,
            [caption for _, caption in captions],
            seed=list(range(len(captions))),
            table=table,
            guidance=guidance,
        )
    framed = []
    for image, pixels, (spec, _) in zip(result.images, to_uint8(result.x), captions, strict=True):
        colour = (200, 200, 200) if judge(pixels, spec).correct else (220, 0, 0)
        large = image.resize((image.width * SCALE, image.height * SCALE), 0)
        framed.append(ImageOps.expand(large, FRAME, colour))
    grid(framed, columns=options.per_kind).save(options.output)
    for caption in captions:
        print(caption[1])


if __name__ == "__main__":
    sys.exit(run_script(main))
