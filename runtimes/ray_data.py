"""Callable classes for Ray Data's ``map_batches``: one open runtime a worker.

Ray sets CUDA_VISIBLE_DEVICES of each worker to the GPUs that it assigned, so device 0 is the
worker's own. Nothing here imports ray: the classes are as usable without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.evaluation.benchmarks.generate_suite import SuiteRun, suite_block_maker
from minit2i_deploy.generate import generate
from minit2i_deploy.io.images import encode_png
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.shards.job import Job, job_folder
from minit2i_deploy.shards.line_blocks import LineBlocks
from minit2i_deploy.shards.work import MakeBlock, run_blocks
from minit2i_deploy.text.embed import embed
from minit2i_deploy.text.embed_blocks import PARQUET, block_maker, embed_job
from minit2i_deploy.text.embedding_files import Contents
from minit2i_deploy.text.encoder import encode_ahead

Batch = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRuntime:
    """The bundle and the engine that a worker opens.

    Args:
        bundle: folder, which every node has under the same path.
        runtime: name of the runtime.
        options: of the runtime; ``device`` is the index among the GPUs that Ray assigned.
    """

    bundle: str
    runtime: str = "onnxruntime"
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> tuple[Bundle, Runtime]:
        """Open both, in the worker."""
        from minit2i_deploy.runtimes import open_runtime

        bundle = Bundle.open(self.bundle)
        return bundle, open_runtime(bundle, self.runtime, **self.options)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedTask:
    """A file of texts and where its parts go; the fields are options of ``minit2i embed``.

    Args:
        worker: bundle and engine.
        texts: .txt file, or .jsonl file with ``field``, which every node can read.
        output: file that ``minit2i shards merge`` writes; parts go to ``OUTPUT.shards``.
        contents: arrays to write.
        field: name of the text in each line's JSON object; None for plain lines.
        batch_size: texts encoded at once.
        block_lines: lines of a part.
    """

    worker: WorkerRuntime
    texts: str
    output: str
    contents: Contents
    field: str | None = None
    batch_size: int = 32
    block_lines: int = 4096

    @property
    def folder(self) -> Path:
        """Folder of the parts and of their marks."""
        return job_folder(Path(self.output))

    def plan(self) -> tuple[Job, LineBlocks]:
        """The job, which is also that of ``minit2i embed --shard`` with the same options.

        Raises:
            UsageError: the file cannot be read.
        """
        lines = LineBlocks.scan(Path(self.texts), self.block_lines)
        job = embed_job(
            Bundle.open(self.worker.bundle),
            lines,
            self.contents,
            field=self.field,
            batch_size=self.batch_size,
            suffix=PARQUET if self.output.endswith(PARQUET) else ".npz",
            engine={"engine": self.worker.runtime, "tf32": False},
        )
        return job, lines


class EmbedBlocks:
    """Embed blocks of a file: exact to the byte, whichever worker makes a block and how often.

    Rows are ``{"block": number}``, for example of ``ray.data.range(job.num_blocks)`` under the
    name ``id``. A block that a lost node was making is made again; one that is done is not.

    Args:
        task: what to embed.
    """

    def __init__(self, task: EmbedTask) -> None:
        self._bundle, self._runtime = task.worker.open()
        job, lines = task.plan()
        make = block_maker(self._bundle, self._runtime, lines, job, task.folder)
        self._blocks = _Blocks(job, task.folder, make)

    def __call__(self, batch: Batch) -> Batch:
        """Make the blocks that are named ``id``, and say how many items were made."""
        return self._blocks.make(batch)


class PaintBlocks:
    """Generate blocks of a benchmark's prompts, as ``EmbedBlocks`` embeds those of a file.

    Args:
        worker: bundle and engine.
        run: what to generate; of that bundle.
        output: folder of the images.
    """

    def __init__(self, worker: WorkerRuntime, run: SuiteRun, output: str) -> None:
        _, self._runtime = worker.open()
        make = suite_block_maker(run, self._runtime, Path(output))
        self._blocks = _Blocks(run.job(), job_folder(Path(output)), make)

    def __call__(self, batch: Batch) -> Batch:
        """Make the blocks that are named ``id``, and say how many items were made."""
        return self._blocks.make(batch)


class EmbedTexts:
    """Add embeddings to rows, for ``write_parquet``.

    The last bits of a text depend on its batch. Where bytes must be equal, use ``EmbedBlocks``.

    Args:
        worker: bundle and engine.
        column: of the texts.
        tokens: add ``values``, float32 [tokens, width] of each text, beside ``pooled``.
    """

    def __init__(
        self, worker: WorkerRuntime, *, column: str = "text", tokens: bool = False
    ) -> None:
        self._bundle, self._runtime = worker.open()
        self._column, self._tokens = column, tokens

    def __call__(self, batch: Batch) -> Batch:
        """The batch with ``pooled``, float32 [n, width], and ``tokens``, the number of each."""
        embeddings = embed(self._bundle, self._runtime, [str(t) for t in batch[self._column]])
        lengths = embeddings.mask.sum(axis=1)
        result = {**batch, "pooled": embeddings.pooled(), "tokens": lengths}
        if self._tokens:
            pairs = zip(embeddings.values, lengths, strict=True)
            # Of several lengths, so an array of objects: Arrow makes lists of them.
            values = np.empty(len(lengths), dtype=object)
            values[:] = [sequence[:length].tolist() for sequence, length in pairs]
            result["values"] = values
        return result


class PaintPrompts:
    """Turn rows of prompts and seeds into PNG files, for ``write_webdataset(.., encoder=None)``.

    An image does not depend on its batch. A row needs ``prompt`` and ``seed``, and for a tar file
    a ``__key__``; the image has its record, from which ``minit2i generate --from`` makes it again.

    Args:
        worker: bundle and engine.
        guidance: scale; None takes the default preset's.
    """

    def __init__(self, worker: WorkerRuntime, *, guidance: float | None = None) -> None:
        self._bundle, self._runtime = worker.open()
        self._guidance = guidance

    def __call__(self, batch: Batch) -> Batch:
        """``png``, ``txt`` and ``__key__`` of each row."""
        prompts = [str(prompt) for prompt in batch["prompt"]]
        encode_ahead(self._bundle, self._runtime, ["", *dict.fromkeys(prompts)])
        result = generate(
            self._bundle,
            self._runtime,
            prompts,
            seed=[int(seed) for seed in batch["seed"]],
            guidance=self._guidance,
        )
        num_rows = len(result.request.table)
        images = [
            encode_png(image, result.record(place).fields(num_rows=num_rows), name="image.png")
            for place, image in enumerate(result.images)
        ]
        keys = batch.get("__key__", [f"{seed}" for seed in batch["seed"]])
        return {"__key__": list(keys), "png": images, "txt": prompts}


class _Blocks:
    """Makes the blocks that a batch of rows names."""

    def __init__(self, job: Job, folder: Path, make: MakeBlock) -> None:
        self._job, self._folder, self._make = job, folder, make

    def make(self, batch: Batch) -> Batch:
        items = []
        for block in batch["id"]:
            report = run_blocks(self._job, self._folder, [int(block)], self._make)
            items.append(report.num_items)
        return {"id": list(batch["id"]), "items": items}
