"""The options of minit2i generate."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.cli.support.images.edit_options import EditOptions, add_edit
from minit2i_deploy.cli.support.options.engine_options import EngineOptions, add_engine
from minit2i_deploy.cli.support.options.sampling_options import (
    AdjustmentOptions,
    TableOptions,
    add_adjustments,
    add_sampling,
)
from minit2i_deploy.cli.support.options.shared_arguments import (
    add_bundle,
    add_json,
    add_size,
    integer,
    number,
    seeds,
)

# Suffixes of the files that images are written to; the first is the default.
IMAGE_FORMATS: Final = ("png", "jpg", "webp")


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputPlace:
    """Where -o points: a path, and whether it was written with a slash at its end."""

    path: Path
    has_slash: bool

    @classmethod
    def of(cls, text: str) -> OutputPlace:
        """The place that a word on the command line names."""
        return cls(path=Path(text), has_slash=text.endswith(("/", os.sep)))


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateOptions:
    """Options of minit2i generate; None where one was not given.

    Args:
        bundle: folder of the bundle.
        prompt: prompts on the command line; a single ``-`` stands for standard input.
        output: file or folder of the images.
        format: of images that ``output`` does not name, one of IMAGE_FORMATS.
        prompts: file of prompts, or ``-``.
        also: texts and weights that are mixed into each prompt.
        negative: prompt in place of the unconditional branch.
        source_image: image to generate again from its record.
        sampling: where the solver table comes from.
        guidance: scale in place of the preset's.
        size: width and height of the images.
        adjustments: guidance columns in place of the table's.
        seed: seeds of the noise.
        num_images: images per prompt, from consecutive seeds.
        batch: images generated at once.
        noise: .npy file in place of the seeds' noise.
        variations: images per prompt and seed, from noise that other seeds change.
        amount: how much they change it.
        edit: input images.
        grid: file for all images side by side.
        save_state: .npy file for the final states.
        preview: folder for the estimates of each row.
        animate: file for the estimates as an animation.
        every: rows between estimates that are shown.
        repeat: times that everything is generated, for timing.
        engine: what runs the graphs.
        json: print JSON in place of text.
    """

    bundle: str
    prompt: tuple[str, ...]
    output: OutputPlace | None
    format: str
    prompts: Path | None
    also: tuple[tuple[str, float], ...]
    negative: str | None
    source_image: Path | None
    sampling: TableOptions
    guidance: float | None
    size: int | tuple[int, int] | None
    adjustments: AdjustmentOptions
    seed: tuple[int, ...] | None
    num_images: int | None
    batch: int
    noise: Path | None
    variations: int | None
    amount: float | None
    edit: EditOptions
    grid: Path | None
    save_state: Path | None
    preview: Path | None
    animate: Path | None
    every: int | None
    repeat: int | None
    engine: EngineOptions
    json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Every argument of the command."""
    add_bundle(parser)
    # A list, because a single optional word would be taken for missing after an option.
    parser.add_argument(
        "prompt",
        metavar="PROMPT",
        nargs="*",
        # Without a default of its own argparse calls it required.
        default=[],
        help="text to generate an image from, in quotes; several give several images; - reads one "
        "per line from standard input",
    )
    parser.set_defaults(gather="prompt")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        type=OutputPlace.of,
        help="one image: .png, .jpg or .webp file, replaced if it exists, or DIR/ for a file in "
        "that folder; several: new folder for INDEX-SEED.png. A folder also gets index.jsonl. "
        "Default: minit2i-SEED.png (several prompts: minit2i-INDEX-SEED.png) here, or "
        "minit2i-SEED-2.png and so on, which replaces nothing",
    )
    parser.add_argument(
        "--format",
        choices=IMAGE_FORMATS,
        default=IMAGE_FORMATS[0],
        help="of images whose file -o does not name: png (default), jpg (quality 95), or webp "
        "(lossless)",
    )
    _add_prompts(parser)
    add_sampling(parser)
    add_adjustments(parser)
    add_size(parser)
    _add_seeds(parser)
    add_edit(parser)
    _add_outputs(parser)
    add_engine(parser)
    add_json(parser)


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="UTF-8 .txt file in place of PROMPT, one prompt per line; - reads standard input",
    )
    group.add_argument(
        "--also",
        metavar="TEXT:WEIGHT",
        type=_weighted_text,
        action="append",
        default=[],
        help="mix another text into each prompt, whose own weight is 1; weights are divided by "
        "their sum; may be given several times",
    )
    group.add_argument(
        "--negative", metavar="TEXT", help="prompt to move away from, in place of the empty prompt"
    )
    group.add_argument(
        "--from",
        dest="source_image",
        metavar="IMAGE",
        type=Path,
        help="generate an image of this bundle again from the record in its file; other options "
        "replace what the record says",
    )


def _add_seeds(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("seeds and noise")
    group.add_argument(
        "--seed",
        metavar="N[,N..]",
        type=seeds,
        help="seeds of the noise, each from 0 (default) to 2**64 - 1; random draws one, which the "
        "file's name and record then hold",
    )
    group.add_argument(
        "--num-images",
        metavar="N",
        type=integer,
        help="images per prompt, with the seeds SEED, SEED + 1 and so on",
    )
    group.add_argument(
        "--batch",
        metavar="N",
        type=integer,
        default=1,
        help="images generated at once (default 1); changes memory and speed, not the images",
    )
    group.add_argument(
        "--noise",
        metavar="FILE",
        type=Path,
        help=".npy file of float32 unit normal noise, [3, H, W] or [images, 3, H, W], in place "
        "of the seed's",
    )
    group.add_argument(
        "--variations",
        metavar="N",
        type=integer,
        help="images per prompt and seed that are like that seed's: its noise is mixed with that "
        "of SEED + 1, SEED + 2 and so on",
    )
    group.add_argument(
        "--amount",
        metavar="A",
        type=number,
        help="share of the other seed in --variations: 0 changes nothing, 1 is the other seed's "
        "image (default 0.1)",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("further output")
    group.add_argument(
        "--grid",
        metavar="FILE",
        type=Path,
        help=".png, .jpg or .webp file with all images side by side",
    )
    group.add_argument(
        "--save-state",
        metavar="FILE",
        type=Path,
        help=".npy file for the images before rounding: float32 [images, 3, H, W], -1 to 1",
    )
    group.add_argument(
        "--preview",
        metavar="DIR",
        type=Path,
        help="new folder for each image as estimated in each row of the table",
    )
    group.add_argument(
        "--animate",
        metavar="FILE",
        type=Path,
        help=".webp or .gif file that shows the estimates of one image and then the image",
    )
    group.add_argument(
        "--every",
        metavar="N",
        type=integer,
        help="show every Nth row in --preview and --animate, and the last (default 1)",
    )
    group.add_argument(
        "--repeat",
        metavar="N",
        type=integer,
        help="generate everything N times and print how long a batch takes after warm-up; the "
        "images are written once",
    )


def _weighted_text(argument: str) -> tuple[str, float]:
    text, colon, weight = argument.rpartition(":")
    try:
        if colon:
            return text, float(weight)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(
        f"expected TEXT:WEIGHT such as 'a square:0.5', got {argument!r}"
    )
