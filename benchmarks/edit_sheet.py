"""The images of the guide to editing: every edit of the shipped model, on fixed seeds.

    python benchmarks/edit_sheet.py docs/images

Each file is one row: the image that is edited, its mask where there is one, and the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.cli.support.script import run_script
from minit2i_deploy.demo.edits import CASES, mask_of
from minit2i_deploy.demo.ready import ready_bundle
from minit2i_deploy.editing.input_images import read_edit
from minit2i_deploy.evaluation.shapes import draw_scene
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import encode_png, grid, save_png, to_pil
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.solvers.noise import mixed_noise

STRENGTHS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_SEEDS: Final = 5
# Pixels of the sheet for each of the image, so that a page shows them as they are.
_ZOOM: Final = 2


class Edits:
    """The rows of the sheet, from images that the model generates itself."""

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self._bundle, self._runtime = bundle, runtime

    def strength(self) -> list[Image.Image]:
        """A red circle that is to be blue, from little noise to nothing but noise."""
        circle = self._first("a red circle", 7)
        edits = [
            self._edited("a blue circle", [1], init_image=_png(circle), strength=strength)[0]
            for strength in STRENGTHS
        ]
        return [circle, *edits]

    def inpaint(self) -> list[Image.Image]:
        """Half of a drawn scene, with another object."""
        case = CASES[1]
        first = Image.fromarray(draw_scene(case.scene, self._bundle.config.image_size))
        mask = mask_of(case, first)
        assert mask is not None
        edits = self._edited(case.prompt, range(NUM_SEEDS), inpaint=_png(first), mask=_png(mask))
        return [first, mask.convert("RGB"), *edits]

    def outpaint(self) -> list[Image.Image]:
        """A drawn circle with a border on three sides."""
        case = CASES[2]
        first = Image.fromarray(draw_scene(case.scene, self._bundle.config.image_size))
        edits = self._edited(
            case.prompt, range(NUM_SEEDS + 1), inpaint=_png(first), **case.arguments
        )
        return [first, *edits]

    def variations(self) -> list[Image.Image]:
        """An image and others from noise near its own."""
        first = self._first("a red circle", 7)
        shape = self._bundle.config.image_shape
        others = range(8, 8 + NUM_SEEDS + 1)
        noise = np.stack([mixed_noise(7, other, 0.1, shape) for other in others])
        prompts = ["a red circle"] * len(others)
        return [first, *generate(self._bundle, self._runtime, prompts, seed=7, noise=noise).images]

    def _first(self, prompt: str, seed: int) -> Image.Image:
        return generate(self._bundle, self._runtime, prompt, seed=seed).images[0]

    def _edited(self, prompt: str, seeds: Sequence[int], **images: Any) -> list[Image.Image]:
        edit = read_edit(self._bundle, **images)
        prompts = [prompt] * len(seeds)
        result = generate(
            self._bundle, self._runtime, prompts, seed=list(seeds), **edit.arguments()
        )
        return to_pil(result.x)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the files go")
    options = parser.parse_args(arguments)
    bundle = Bundle.open(ready_bundle("demo"))
    with open_runtime(bundle, "onnxruntime") as runtime:
        edits = Edits(bundle, runtime)
        for name in ("strength", "inpaint", "outpaint", "variations"):
            images = getattr(edits, name)()
            size = tuple(_ZOOM * side for side in images[0].size)
            large = [image.resize(size, Image.Resampling.NEAREST) for image in images]
            save_png(grid(large, len(large), gap=4), options.folder / f"edit-{name}.png", {})
    return 0


def _png(image: Image.Image) -> bytes:
    return encode_png(image, {})


if __name__ == "__main__":
    sys.exit(run_script(main))
