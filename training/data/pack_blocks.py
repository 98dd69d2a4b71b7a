"""Packing in blocks, each a tar shard, by any number of processes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from minit2i_deploy.errors import Minit2iError, TrainingError, UsageError
from minit2i_deploy.io.files import sha256_file
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.shards.blocks import BlockResult
from minit2i_deploy.shards.job import BESIDE, Job, job_folder
from minit2i_deploy.shards.shard import Shard
from minit2i_deploy.shards.work import ShardReport, run_shard
from minit2i_deploy.training.data.image_folder import METADATA, ImageFolder
from minit2i_deploy.training.data.pack import read_checked
from minit2i_deploy.training.data.sample import BadSampleError
from minit2i_deploy.training.data.shapes_source import ShapesSource
from minit2i_deploy.training.data.shards.index import SUFFIX
from minit2i_deploy.training.data.shards.writer import write_shard

KIND: Final = "pack"


def pack_folder_shard(
    folder: Path,
    out: Path,
    shard: Shard,
    *,
    per_shard: int,
    bad_limit: int,
    progress: Progress = no_progress,
) -> ShardReport:
    """Pack the images of this process's blocks; block b is the tar file of number b.

    A sample's key is the number of its image in the folder, so that it does not depend on bad
    images before it.

    Args:
        folder: of images and captions.
        out: folder of the tar files.
        shard: which of them.
        per_shard: images of each tar file but the last.
        bad_limit: images of one block that may be excluded.
        progress: called with the share of this shard's blocks.

    Raises:
        UsageError: no images, or ``out`` is of another job.
        TrainingError: more bad images in a block than the limit.
    """
    source = ImageFolder.open(folder)

    def make(block: int, items: range, progress: Progress) -> BlockResult:
        samples, problems = [], []
        for number in items:
            try:
                samples.append((number, read_checked(source, source.images[number])))
            except BadSampleError as error:
                problems.append(f"{source.key(source.images[number])}: {error}")
                if len(problems) > bad_limit:
                    raise TrainingError(
                        f"{folder}: {problems[-1]}; {len(problems)} bad images exceed --bad-limit "
                        f"{bad_limit}"
                    ) from error
            progress((number + 1 - items.start) / len(items))
        return _write(out, block, samples, problems)

    job = _job(_folder_digest(folder, source), len(source.images), per_shard, {"shapes": None})
    return run_shard(job, job_folder(out), shard, make, progress=progress)


def pack_shapes_shard(
    out: Path,
    shard: Shard,
    *,
    num_samples: int,
    seed: int,
    size: int,
    per_shard: int,
    progress: Progress = no_progress,
) -> ShardReport:
    """Draw and pack the shapes of this process's blocks; arguments as for ``pack_shapes``.

    Raises:
        UsageError: a number out of range, or ``out`` is of another job.
    """
    if min(num_samples, size, per_shard) < 1 or seed < 0:
        raise UsageError(
            f"cannot draw {num_samples} images of {size} pixels with seed {seed}; the seed must be "
            "0 or more and the others 1 or more"
        )
    source = ShapesSource(seed=seed, page=1, image_size=size, kind_weights={})

    def make(block: int, items: range, progress: Progress) -> BlockResult:
        samples = []
        for number in items:
            drawn, buffer = source.sample(number), io.BytesIO()
            Image.fromarray(drawn.image).save(buffer, format="PNG")
            members = {"png": buffer.getvalue(), "txt": drawn.caption.encode()}
            samples.append((number, members))
            progress((number + 1 - items.start) / len(items))
        return _write(out, block, samples, [])

    settings = {"shapes": num_samples, "seed": seed, "size": size}
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
    job = _job(digest, num_samples, per_shard, settings)
    return run_shard(job, job_folder(out), shard, make, progress=progress)


def _job(digest: str, num_items: int, per_shard: int, settings: Mapping[str, object]) -> Job:
    return Job(
        kind=KIND,
        bundle="",
        input_sha256=digest,
        num_items=num_items,
        block_items=per_shard,
        data=BESIDE,
        settings=settings,
    )


def _folder_digest(folder: Path, source: ImageFolder) -> str:
    """Hash of names and sizes: to hash all images would take as long as to pack them."""
    digest = hashlib.sha256()
    for path in source.images:
        digest.update(f"{source.key(path)}\0{path.stat().st_size}\n".encode())
    metadata = folder / METADATA
    if metadata.is_file():
        digest.update(sha256_file(metadata).encode())
    return digest.hexdigest()


def _write(
    out: Path, block: int, samples: list[tuple[int, dict[str, bytes]]], problems: list[str]
) -> BlockResult:
    if not samples:
        return BlockResult(counts={"samples": 0}, problems=problems)
    name = f"{block:06d}.tar"
    write_shard(out / name, ((f"{number:09d}", members) for number, members in samples))
    index = f"{name}{SUFFIX}"
    if not (out / index).is_file():
        raise Minit2iError(f"{out / index}: cannot be written; free some space there")
    return BlockResult(files=[name, index], counts={"samples": len(samples)}, problems=problems)
