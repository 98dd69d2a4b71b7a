"""Options of minit2i generate that begin with an image."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from minit2i_deploy.cli.support.options.shared_arguments import integers, number


@dataclass(frozen=True, kw_only=True, slots=True)
class EditOptions:
    """Input images and what is done with them; None where one was not given.

    Args:
        init_image: image to begin with.
        strength: how much of the first image is new.
        inpaint: image of which a part stays.
        mask: image that says which part.
        outpaint: pixels to add at the left, top, right and bottom.
        feather: pixels over which the mask's border is softened.
    """

    init_image: Path | None
    strength: float | None
    inpaint: Path | None
    mask: Path | None
    outpaint: tuple[int, ...] | None
    feather: float | None


def add_edit(parser: argparse.ArgumentParser) -> None:
    """The options of EditOptions."""
    group = parser.add_argument_group(
        "images in (any size; scaled and cropped to the size that is generated)"
    )
    group.add_argument(
        "--init-image", metavar="IMAGE", type=Path, help="image to begin with; needs --strength"
    )
    group.add_argument(
        "--strength",
        metavar="S",
        type=number,
        help="how much of the first image is new: 0 gives it back, 1 is text-to-image; with "
        "--inpaint the open part begins with that image, else with noise",
    )
    group.add_argument(
        "--inpaint",
        metavar="IMAGE",
        type=Path,
        help="image of which a part stays to the last bit; without --mask its transparent pixels "
        "are generated",
    )
    group.add_argument(
        "--mask",
        metavar="IMAGE",
        type=Path,
        help="image as large as that of --inpaint; white is generated, black stays",
    )
    group.add_argument(
        "--outpaint",
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        type=integers,
        help="pixels to add around the image of --inpaint; all of it is scaled to fit, and the "
        "border is generated",
    )
    group.add_argument(
        "--feather",
        metavar="PIXELS",
        type=number,
        help="soften the border of the mask into the part that stays, over so many pixels of the "
        "generated image (default 0)",
    )
