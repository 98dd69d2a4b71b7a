"""The suites: how many images a prompt, in which folders, and how the results are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from minit2i_deploy.errors import UsageError

GENEVAL, DPG, PRISM, FID, FOLDER, SHAPES = "geneval", "dpg", "prism", "fid", "folder", "shapes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """One suite.

    Args:
        name: as on the command line.
        num_samples: images a prompt in the official evaluation.
        num_prompts: prompts of the official set; None where there is none.
        prompts: its file of prompts, for help and errors.
        images: where an image goes, for help.
    """

    name: str
    num_samples: int
    num_prompts: int | None
    prompts: str
    images: str


# Source: djghosh13/geneval (evaluation/evaluate_images.py); TencentQQGYLab/ELLA
# (dpg_bench/compute_dpg_bench.py); Looped-DiT's protocol for PRISM-Bench; the captions of
# COCO val2014 in MiniT2I's evaluation assets.
SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite(
            name=GENEVAL,
            num_samples=4,
            num_prompts=553,
            prompts="evaluation_metadata.jsonl",
            images="OUT/INDEX/metadata.jsonl and OUT/INDEX/samples/SAMPLE.png",
        ),
        Suite(
            name=DPG,
            num_samples=4,
            num_prompts=1065,
            prompts="folder of ITEM.txt files, or .csv or .jsonl file with item_id",
            images="OUT/ITEM.png, a grid of two by two",
        ),
        Suite(
            name=PRISM,
            num_samples=1,
            num_prompts=None,
            prompts="folder of TRACK.jsonl files, or one of them",
            images="OUT/TRACK/TRACK-NNN/SAMPLE.png",
        ),
        Suite(
            name=FID,
            num_samples=1,
            num_prompts=30_000,
            prompts=".json file of captions by image, or .txt file",
            images="OUT/INDEX.png",
        ),
        Suite(
            name=FOLDER,
            num_samples=1,
            num_prompts=None,
            prompts=".txt file, or .jsonl file with prompt",
            images="OUT/INDEX-SAMPLE.png",
        ),
        Suite(
            name=SHAPES,
            num_samples=1,
            num_prompts=600,
            prompts="held-out captions of the shapes data, drawn where no file is given",
            images="as geneval",
        ),
    )
}


def find_suite(name: str) -> Suite:
    """Look up a suite.

    Raises:
        UsageError: the name is unknown; the choices are listed.
    """
    if name not in SUITES:
        raise UsageError(f"suite {name!r} is unknown; choose one of {', '.join(SUITES)}")
    return SUITES[name]
