"""Where the images of a prompt go, as the scorer of each benchmark reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.benchmarks.items import Item
from minit2i_deploy.evaluation.benchmarks.suites import (
    DPG,
    FID,
    GENEVAL,
    PRISM,
    SHAPES,
    Suite,
)
from minit2i_deploy.io.files import atomic_write_text, write_error
from minit2i_deploy.io.image_formats import save_image
from minit2i_deploy.io.images import grid

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA_FILE: Final = "metadata.jsonl"
# DPG-Bench cuts the grid at its resolution into left top, right top, left bottom, right bottom.
_GRID_COLUMNS: Final = 2
_GRID_SAMPLES: Final = (1, 4)


def check_samples(suite: Suite, num_samples: int) -> None:
    """Refuse a number of images a prompt that the suite has no place for.

    Raises:
        UsageError: it has none.
    """
    if num_samples < 1 or num_samples > 99_999:
        raise UsageError(f"--samples: expected 1 to 99999, got {num_samples}")
    if suite.name == DPG and num_samples not in _GRID_SAMPLES:
        raise UsageError(f"--samples: a grid of dpg has 1 or 4 images, got {num_samples}")
    if suite.name == FID and num_samples != 1:
        raise UsageError(f"--samples: fid takes one image a caption, got {num_samples}")


def image_names(suite: Suite, item: Item, num_samples: int) -> list[str]:
    """Paths of a prompt's image files below the output: of each sample, or of the grid."""
    samples = [f"{sample:05d}.png" for sample in range(num_samples)]
    if suite.name in (GENEVAL, SHAPES):
        return [f"{item.name}/samples/{name}" for name in samples]
    if suite.name == PRISM:
        return [f"{item.group}/{item.name}/{name}" for name in samples]
    if suite.name in (DPG, FID):
        return [f"{item.name}.png"]
    return [f"{item.name}-{name}" for name in samples]


def write_images(
    out: Path,
    suite: Suite,
    item: Item,
    images: Sequence[Image],
    fields: Sequence[Mapping[str, str]],
) -> list[str]:
    """Write all images of a prompt, and what the scorer reads beside them.

    Args:
        out: folder of the suite.
        suite: whose layout.
        item: the prompt.
        images: of every sample.
        fields: text fields of each image's record.

    Returns:
        paths below ``out``.

    Raises:
        UsageError: the folder may not be written.
        Minit2iError: the disk failed or is full.
    """
    names = image_names(suite, item, len(images))
    if suite.name == DPG:
        sheet = grid(images, _GRID_COLUMNS, gap=0)
        seeds = " ".join(each["seed"] for each in fields)
        images, fields = [sheet], [{"bundle": fields[0]["bundle"], "seeds": seeds}]
    for name, image, metadata in zip(names, images, fields, strict=True):
        _create_folder(out / name)
        save_image(image, out / name, metadata)
    if suite.name not in (GENEVAL, SHAPES):
        return names
    path = f"{item.name}/{METADATA_FILE}"
    # Read by json.load: exactly one object.
    atomic_write_text(out / path, item.metadata + "\n")
    return [path, *names]


def _create_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error) from error
