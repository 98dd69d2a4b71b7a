"""Generate the images of a benchmark in blocks of prompts, by any number of processes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.benchmarks.items import Item, items_digest
from minit2i_deploy.evaluation.benchmarks.layouts import check_samples, write_images
from minit2i_deploy.evaluation.benchmarks.official_settings import OfficialSettings
from minit2i_deploy.evaluation.benchmarks.sample_seeds import sample_seed
from minit2i_deploy.evaluation.benchmarks.suites import FID, Suite
from minit2i_deploy.generate import generate
from minit2i_deploy.io.files import atomic_write_bytes
from minit2i_deploy.progress import Progress, by_count, no_progress, stage_of
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.shards.blocks import BlockResult
from minit2i_deploy.shards.job import BESIDE, Job, job_folder
from minit2i_deploy.shards.shard import Shard
from minit2i_deploy.shards.work import MakeBlock, ShardReport, run_shard
from minit2i_deploy.solvers.table import Table
from minit2i_deploy.text.encoder import encode_ahead, grow_cache

if TYPE_CHECKING:
    from PIL.Image import Image

KIND: Final = "images"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SuiteRun:
    """The images of a suite by one bundle.

    Args:
        bundle: that generates.
        suite: whose layout.
        items: all prompts.
        table: solver.
        guidance: scale of classifier-free guidance.
        official: the official settings that these follow or differ from.
        num_samples: images a prompt.
        seed: of the run.
        batch: images generated at once.
        block_items: prompts of a block.
        arrays: write uint8 arrays in place of files, for fid only.
        engine: what else changes the pixels, as plain values.

    Raises:
        UsageError: a number that the suite has no place for.
    """

    bundle: Bundle
    suite: Suite
    items: Sequence[Item]
    table: Table
    guidance: float
    official: OfficialSettings
    num_samples: int
    seed: int = 0
    batch: int = 8
    block_items: int = 4
    arrays: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_samples(self.suite, self.num_samples)
        if self.batch < 1:
            raise UsageError(f"--batch: expected at least 1, got {self.batch}")
        if self.block_items < 1:
            raise UsageError(f"--block: expected at least 1, got {self.block_items}")
        if self.arrays and self.suite.name != FID:
            raise UsageError(f"--arrays: is for fid; {self.suite.name} is scored from its files")
        sample_seed(self.seed, 0, 0)

    def job(self) -> Job:
        """Its identity. The number of images at once is a part of it: GPUs round by it."""
        return Job(
            kind=KIND,
            bundle=self.bundle.digest,
            input_sha256=items_digest(self.items),
            num_items=len(self.items),
            block_items=self.block_items,
            data=BESIDE,
            settings={
                "suite": self.suite.name,
                "samples": self.num_samples,
                "seed": self.seed,
                "batch": self.batch,
                "arrays": self.arrays,
                "table": self.table.name,
                "table_sha256": hashlib.sha256(self.table.to_json().encode()).hexdigest(),
                "guidance": self.guidance,
                "official_flavour": self.official.flavour,
                "official_guidance": self.official.guidance,
                "official_source": self.official.source,
                **self.engine,
            },
        )


def generate_shard(
    run: SuiteRun,
    runtime: Runtime,
    out: Path,
    shard: Shard,
    *,
    progress: Progress = no_progress,
) -> ShardReport:
    """Generate the missing blocks of a shard; errors as for ``run_shard``.

    Args:
        run: what to generate.
        runtime: an open runtime of that bundle.
        out: folder of the suite.
        shard: which blocks.
        progress: called with the share of this shard's images.

    Raises:
        UsageError: the folder is of another run, or may not be written.
        RuntimeFailure: the engine failed.
    """
    make = suite_block_maker(run, runtime, out)
    return run_shard(run.job(), job_folder(out), shard, make, progress=progress)


def suite_block_maker(run: SuiteRun, runtime: Runtime, out: Path) -> MakeBlock:
    """Writes the images of one block; arguments as for ``generate_shard``."""
    config = run.bundle.config
    # All prompts of a batch and the empty one fit, so that each is encoded alone and once.
    longest_bytes = 4 * config.prompt_length * config.txt_input_size
    grow_cache(runtime, 2 * (run.batch + 1) * longest_bytes)

    def make(block: int, items: range, progress: Progress) -> BlockResult:
        members = [run.items[index] for index in items]
        orders = [(item, sample) for item in members for sample in range(run.num_samples)]
        images: dict[int, list[tuple[Image, Mapping[str, str]]]] = {}
        for start in range(0, len(orders), run.batch):
            batch = orders[start : start + run.batch]
            part = stage_of(
                progress, start / len(orders), (start + len(batch)) / len(orders), f"block {block}"
            )
            for (item, _), result in zip(batch, _generate(run, runtime, batch, part), strict=True):
                images.setdefault(item.index, []).append(result)
        files = (
            [_write_arrays(out, block, [image for pairs in images.values() for image, _ in pairs])]
            if run.arrays
            else [name for item in members for name in _write(run, out, item, images)]
        )
        return BlockResult(files=files, counts={"prompts": len(items), "images": len(orders)})

    return make


def _generate(
    run: SuiteRun, runtime: Runtime, batch: Sequence[tuple[Item, int]], progress: Progress
) -> list[tuple[Image, Mapping[str, str]]]:
    """Images of some samples and the fields of their records."""
    prompts = [item.prompt for item, _ in batch]
    encode_ahead(run.bundle, runtime, ["", *dict.fromkeys(prompts)])
    result = generate(
        run.bundle,
        runtime,
        prompts,
        seed=[sample_seed(run.seed, item.index, sample) for item, sample in batch],
        table=run.table,
        guidance=run.guidance,
        on_row=by_count(progress),
    )
    num_rows = len(run.table)
    return [
        (image, result.record(place).fields(num_rows=num_rows))
        for place, image in enumerate(result.images)
    ]


def _write(
    run: SuiteRun,
    out: Path,
    item: Item,
    images: Mapping[int, Sequence[tuple[Image, Mapping[str, str]]]],
) -> list[str]:
    pairs = images[item.index]
    return write_images(
        out, run.suite, item, [image for image, _ in pairs], [fields for _, fields in pairs]
    )


def _write_arrays(out: Path, block: int, images: Sequence[Image]) -> str:
    """uint8 [images, 3, height, width], as feature extractors of FID take them."""
    name, buffer = f"part-{block:06d}.npy", io.BytesIO()
    pixels = np.stack([np.asarray(image) for image in images])
    np.save(buffer, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    atomic_write_bytes(out / name, buffer.getvalue())
    return name
