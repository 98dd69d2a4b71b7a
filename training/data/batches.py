"""The batches of a run: a function of the recipe, the seed and the samples seen so far."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from minit2i_deploy.errors import DataWarning, Minit2iError, TrainingError, UsageError
from minit2i_deploy.progress import ProgressLine
from minit2i_deploy.training.data.mixture import Mixture, open_mixture
from minit2i_deploy.training.data.sample import BadSample, Sample
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.stop_request import ignore_stop_signals

_PREFETCH_BATCHES: Final = 4
_PROGRESS_AFTER_S: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataBatch:
    """One process's part of a step's images and captions.

    Args:
        images: uint8 [B, H, W, 3].
        captions: B texts.
        values: [tokens of all captions, width], concatenated embeddings; None where captions are
            encoded during training.
        lengths: tokens of each caption in ``values``.
        bad: samples that were skipped for others.
    """

    images: Tensor
    captions: list[str]
    values: Tensor | None = None
    lengths: tuple[int, ...] = ()
    bad: tuple[BadSample, ...] = ()

    def context_and_mask(self, prompt_length: int) -> tuple[Tensor, Tensor]:
        """The embeddings as ``CaptionEncoder`` gives them.

        Returns:
            context float32 [B, prompt_length, width], zero at padding, and mask [B, prompt_length].
        """
        if self.values is None:
            raise ValueError("the batch has captions and no embeddings")
        context = torch.zeros(len(self.lengths), prompt_length, self.values.shape[1])
        mask = torch.zeros(len(self.lengths), prompt_length)
        for i, part in enumerate(self.values.split(list(self.lengths))):
            context[i, : len(part)] = part
            mask[i, : len(part)] = 1
        return context, mask


class BatchReader(Dataset[DataBatch | Minit2iError]):
    """Item number ``first`` is the batch whose first slot that is, at any time.

    An error is an item too: raised in a worker process it would arrive as that process's traceback.

    Args:
        mixture: the opened sources.
        positions: positions in the batch that are read.
        threads: for reading and decoding.
    """

    def __init__(self, mixture: Mixture, positions: Sequence[int], threads: int) -> None:
        self.mixture, self.positions, self.threads = mixture, positions, threads

    def __getitem__(self, first: int) -> DataBatch | Minit2iError:
        try:
            return self.batch([first + position for position in self.positions])
        except Minit2iError as error:
            return error

    def batch(self, slots: Sequence[int]) -> DataBatch:
        """The samples of some slots."""
        if self.threads == 1 or self.mixture.is_drawn:
            return _batch([self.mixture.at(slot) for slot in slots])
        with ThreadPoolExecutor(self.threads) as pool:
            return _batch(list(pool.map(self.mixture.at, slots)))


class Batches:
    """The batches that a training loop reads, and the state to resume from.

    Step k takes the slots from k * batch on, and process r of n every n-th of them from r on, so
    all processes together read what one alone would.

    Args:
        recipe: data, batch and seed.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        UsageError: the batch does not divide into equal parts for the processes.
        TrainingError: the data is missing, corrupt, embedded by another encoder, or has fewer
            samples than processes.
    """

    def __init__(self, recipe: Recipe, *, rank: int = 0, world_size: int = 1) -> None:
        if recipe.batch % world_size:
            raise UsageError(
                f"recipe: batch is {recipe.batch}, but {world_size} processes need a multiple of "
                f"{world_size}; set batch"
            )
        self.recipe, self.data = recipe, recipe.data
        with _OpeningProgress(recipe.name, is_visible=rank == 0) as opening:
            self.mixture = open_mixture(recipe, opening)
        available = self.mixture.num_samples
        if available is not None and available < world_size:
            raise TrainingError(
                f"{self.data.sources[0].shards[0]}: the data has {available} samples for "
                f"{world_size} processes; start at most {available}"
            )
        self.positions = range(rank, recipe.batch, world_size)
        self.samples_seen = 0
        self._bad: set[tuple[str, str]] = set()

    @property
    def is_embedded(self) -> bool:
        """Whether batches come with embeddings, so that no encoder is needed."""
        return self.mixture.is_embedded

    def read(
        self, num_steps: int, *, steps_back: Sequence[int] | None = None
    ) -> Generator[DataBatch, None, None]:
        """The next batches; the state counts a batch as seen once it is yielded.

        Args:
            num_steps: how many.
            steps_back: of each, how many steps earlier in the run its batch stands; None: all are
                new.

        Raises:
            TrainingError: too many bad samples, or a shard that can no longer be read.
        """
        batch = self.recipe.batch
        reader = BatchReader(self.mixture, self.positions, self.data.threads)
        start = self.samples_seen
        firsts: Sequence[int] = range(start, start + num_steps * batch, batch)
        if steps_back is not None:
            # With another batch size than before, earlier steps may lie before the first sample.
            places = zip(firsts, steps_back, strict=True)
            firsts = [max(0, first - back * batch) for first, back in places]
        for item in _in_workers(reader, firsts, self.data.workers):
            if isinstance(item, Minit2iError):
                raise item
            self._note(item.bad)
            self.samples_seen += batch
            yield item

    def state_dict(self) -> dict[str, Any]:
        """Plain values; the same on every process except for the bad samples it met."""
        return {
            "samples_seen": self.samples_seen,
            "bad": sorted(self._bad),
            "data": self.mixture.digest,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the samples seen so far, by any number of processes.

        If the data has changed, a warning says so; the order continues at the same position.
        """
        self.samples_seen = int(state["samples_seen"])
        self._bad = {(str(shard), str(key)) for shard, key in state["bad"]}
        if state["data"] != self.mixture.digest:
            warnings.warn(
                "the data differs from the checkpoint's; reading continues at sample "
                f"{self.samples_seen} of the new order",
                DataWarning,
                stacklevel=2,
            )

    def _note(self, bad: Sequence[BadSample]) -> None:
        for item in bad:
            if (item.shard, item.key) in self._bad:
                continue
            self._bad.add((item.shard, item.key))
            if len(self._bad) > self.data.bad_limit:
                raise TrainingError(
                    f"{item}; {len(self._bad)} bad samples so far and data.bad_limit is "
                    f"{self.data.bad_limit}; run minit2i data check"
                )
            warnings.warn(f"{item}; skipped", DataWarning, stacklevel=3)


class _OpeningProgress(contextlib.AbstractContextManager["_OpeningProgress"]):
    """A progress line over the shards, if indexing them takes long."""

    def __init__(self, name: str, *, is_visible: bool) -> None:
        self.name, self.is_visible = name, is_visible
        self.start = time.monotonic()
        self.line: ProgressLine | None = None

    def __call__(self, share: float, label: str = "", /) -> None:
        elapsed = time.monotonic() - self.start
        if self.line is None and self.is_visible and elapsed > _PROGRESS_AFTER_S:
            self.line = ProgressLine(f"{self.name}: shards", log_ends=True)
        if self.line is not None:
            self.line(share, label)

    def __exit__(self, *error: object) -> None:
        if self.line is not None:
            self.line.close()


def _in_workers(
    reader: BatchReader, firsts: Sequence[int], workers: int
) -> Iterator[DataBatch | Minit2iError]:
    """The reader's items in order, prefetched by worker processes."""
    if workers == 0:
        yield from (reader[first] for first in firsts)
        return
    loader: DataLoader[Any] = DataLoader(
        reader,
        sampler=firsts,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_PREFETCH_BATCHES,
        worker_init_fn=ignore_stop_signals,
    )
    yield from loader


def _batch(items: Sequence[tuple[Sample, list[BadSample]]]) -> DataBatch:
    samples = [sample for sample, _ in items]
    contexts = [sample.context for sample in samples if sample.context is not None]
    return DataBatch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        captions=[sample.caption for sample in samples],
        values=torch.cat(contexts) if contexts else None,
        lengths=tuple(len(context) for context in contexts),
        bad=tuple(item for _, bad in items for item in bad),
    )
