"""The order of samples, as plain functions of numbers: nothing is replayed on resume.

Slot i of a run belongs to one source; it is that source's sample number n, which lies in epoch
n // size. An epoch is the shards in shuffled order, cut into windows that are shuffled inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Int64

# Each use of the seed has its own generator.
MIX_STREAM: Final = 11
SHARD_STREAM: Final = 12
WINDOW_STREAM: Final = 13
# Slots over which a mix has its shares exactly.
MIX_BLOCK: Final = 65_536


class Mix:
    """Assigns slots to sources.

    Every block of 65536 slots holds the same number of each source's samples, in a random order:
    the weights rounded to 1 / 65536, but at least one sample.

    Args:
        seed: of the run.
        weights: of the sources, above 0.
    """

    def __init__(self, seed: int, weights: Sequence[float]) -> None:
        self.seed = seed
        self.counts = _rounded(weights)

    def at(self, slot: int) -> tuple[int, int]:
        """Source of a slot, and how many slots that source had before it."""
        if len(self.counts) == 1:
            return 0, slot
        block, index = divmod(slot, MIX_BLOCK)
        sources, before = _assignment(self.seed, self.counts, block)
        source = int(sources[index])
        return source, block * self.counts[source] + int(before[index])


class EpochOrder:
    """Shard and index of sample number n of a source.

    Args:
        seed: of the run.
        source: number of the source in the mix.
        sizes: samples of each shard, not all 0.
        window: samples shuffled among each other.
    """

    def __init__(self, seed: int, source: int, sizes: Sequence[int], window: int) -> None:
        self.key = (seed, source)
        self.sizes, self.window = tuple(sizes), window
        self.num_samples = sum(sizes)

    def at(self, number: int) -> tuple[int, int]:
        """Shard of a sample, and its number in that shard."""
        epoch, index = divmod(number, self.num_samples)
        first = index - index % self.window
        length = min(self.window, self.num_samples - first)
        permutation = _window(self.key, epoch, first // self.window, length)
        shards, starts = _epoch(self, epoch)
        index = first + int(permutation[index - first])
        # side="right" skips empty shards, which start where the next one does.
        position = int(np.searchsorted(starts, index, side="right")) - 1
        return int(shards[position]), index - int(starts[position])


def _rounded(weights: Sequence[float]) -> tuple[int, ...]:
    total = sum(weights)
    exact = [weight / total * MIX_BLOCK for weight in weights]
    counts = [max(1, int(value)) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (int(exact[i]) - exact[i], i))
    for i in itertools.islice(itertools.cycle(order), max(0, MIX_BLOCK - sum(counts))):
        counts[i] += 1
    while sum(counts) > MIX_BLOCK:
        counts[counts.index(max(counts))] -= 1
    return tuple(counts)


@lru_cache(maxsize=4)
def _assignment(
    seed: int, counts: tuple[int, ...], block: int
) -> tuple[Int64[np.ndarray, " slots"], Int64[np.ndarray, " slots"]]:
    """Source of each slot of a block, and the same source's slots before it in the block."""
    sources = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng([MIX_STREAM, seed, block]).shuffle(sources)
    before = np.empty_like(sources)
    for source, count in enumerate(counts):
        before[sources == source] = np.arange(count)
    return sources, before


@lru_cache(maxsize=16)
def _epoch(
    order: EpochOrder, epoch: int
) -> tuple[Int64[np.ndarray, " shards"], Int64[np.ndarray, " shards"]]:
    """Shards in this epoch's order, and the index of the first sample of each."""
    generator = np.random.default_rng([SHARD_STREAM, *order.key, epoch])
    shards = generator.permutation(len(order.sizes))
    counts = np.array(order.sizes, dtype=np.int64)[shards]
    return shards, np.cumsum(counts) - counts


@lru_cache(maxsize=64)
def _window(
    key: tuple[int, int], epoch: int, window: int, length: int
) -> Int64[np.ndarray, " length"]:
    return np.random.default_rng([WINDOW_STREAM, *key, epoch, window]).permutation(length)
