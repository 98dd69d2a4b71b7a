"""Packing of an image folder, or of drawn shapes, into shards."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.io.files import atomic_directory
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.training.data.image_folder import ImageFolder
from minit2i_deploy.training.data.images import decode_image
from minit2i_deploy.training.data.sample import (
    BadSample,
    BadSampleError,
    find_caption,
    find_image,
)
from minit2i_deploy.training.data.shapes_source import ShapesSource
from minit2i_deploy.training.data.shards.writer import write_shards


@dataclass(kw_only=True, slots=True)
class PackResult:
    """Counts of a packing run.

    Args:
        num_samples, num_shards: that were written.
        bad: images that were excluded, and why.
    """

    num_samples: int = 0
    num_shards: int = 0
    bad: list[BadSample] = field(default_factory=list)


def pack_folder(
    folder: Path,
    out: Path,
    *,
    per_shard: int,
    bad_limit: int,
    progress: Progress = no_progress,
) -> PackResult:
    """Pack the images of a folder, as ``ImageFolder`` reads it.

    Image files are copied byte for byte; each is decoded once to check that it can be.

    Args:
        folder: of images and captions.
        out: a new folder; receives 000000.tar and so on with their indexes.
        per_shard: samples of each shard but the last.
        bad_limit: images that may be excluded.
        progress: called with the share of images that are done.

    Raises:
        UsageError: no images, or ``out`` exists.
        TrainingError: more bad images than the limit, or metadata.jsonl is corrupt; nothing is
            written then.
    """
    source = ImageFolder.open(folder)
    result = PackResult()

    def samples() -> Iterator[dict[str, bytes]]:
        for done, path in enumerate(source.images, 1):
            try:
                yield read_checked(source, path)
            except BadSampleError as error:
                key = source.key(path)
                result.bad.append(BadSample(shard=str(folder), key=key, reason=str(error)))
                _check_limit(result, bad_limit)
            progress(done / len(source.images), f"{done} of {len(source.images)} images")

    _write(out, samples(), per_shard, result)
    return result


def pack_shapes(
    out: Path,
    *,
    num_samples: int,
    seed: int,
    size: int,
    per_shard: int,
    progress: Progress = no_progress,
) -> PackResult:
    """Draw shapes and pack them as .png and .txt files.

    Args:
        out: a new folder.
        num_samples: images to draw.
        seed: the same seed draws the same images.
        size: their side in pixels.
        per_shard: samples of each shard but the last.
        progress: called with the share of images that are done.

    Raises:
        UsageError: a number out of range, or ``out`` exists.
    """
    if min(num_samples, size, per_shard) < 1 or seed < 0:
        raise UsageError(
            f"cannot draw {num_samples} images of {size} pixels with seed {seed}; the seed must be "
            "0 or more and the others 1 or more"
        )
    source = ShapesSource(seed=seed, page=1, image_size=size, kind_weights={})
    result = PackResult()

    def samples() -> Iterator[dict[str, bytes]]:
        for number in range(num_samples):
            drawn = source.sample(number)
            buffer = io.BytesIO()
            Image.fromarray(drawn.image).save(buffer, format="PNG")
            yield {"png": buffer.getvalue(), "txt": drawn.caption.encode()}
            progress((number + 1) / num_samples, f"{number + 1} of {num_samples} images")

    _write(out, samples(), per_shard, result)
    return result


def _write(
    out: Path, samples: Iterator[dict[str, bytes]], per_shard: int, result: PackResult
) -> None:
    with output_lock(out), atomic_directory(out) as partial:
        for count in write_shards(partial, samples, per_shard):
            result.num_samples = count
            result.num_shards += 1
        if not result.num_samples:
            raise TrainingError(f"{result.bad[-1]}; no image remains to be packed")


def _check_limit(result: PackResult, bad_limit: int) -> None:
    if len(result.bad) > bad_limit:
        raise TrainingError(
            f"{result.bad[-1]}; {len(result.bad)} bad images exceed --bad-limit {bad_limit}"
        )


def read_checked(source: ImageFolder, path: Path) -> dict[str, bytes]:
    raw = source.read(path)
    find_caption(raw, "txt")
    decode_image(find_image(raw))
    return raw.members
