"""Shards as a data source."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from minit2i_deploy.errors import DataWarning, TrainingError
from minit2i_deploy.training.data.images import decode_image, resize_and_crop
from minit2i_deploy.training.data.order import EpochOrder
from minit2i_deploy.training.data.sample import (
    BadSample,
    BadSampleError,
    Sample,
    check_members,
    find_caption,
    find_image,
)
from minit2i_deploy.training.data.shards.embeddings import read_context
from minit2i_deploy.training.data.shards.index import ShardIndex
from minit2i_deploy.training.data.shards.tar import RawSample
from minit2i_deploy.training.recipe.data import SourceRecipe

SUBSTITUTE_STREAM = 14


class ShardSource:
    """The samples of a set of shards in a shuffled order, epoch after epoch.

    Args:
        recipe: of this source.
        shards: index of each shard.
        number: of the source in the mix.
        seed: of the run.
        window: samples shuffled among each other.
        image_size: side of the images in pixels.

    Raises:
        TrainingError: the shards have no sample.
    """

    def __init__(
        self,
        recipe: SourceRecipe,
        shards: Sequence[ShardIndex],
        *,
        number: int,
        seed: int,
        window: int,
        image_size: int,
    ) -> None:
        self.recipe, self.shards, self.image_size = recipe, shards, image_size
        self.key = (seed, number)
        sizes = [len(shard) for shard in shards]
        if not any(sizes):
            raise TrainingError(
                f"{recipe.shards[0]}: {len(shards)} shards have no sample; name others"
            )
        for shard in shards:
            if not len(shard):
                warnings.warn(f"{shard.url}: has no sample", DataWarning, stacklevel=2)
        self.order = EpochOrder(seed, number, sizes, window)
        self.is_embedded = _are_embedded(shards)

    @property
    def num_samples(self) -> int:
        return self.order.num_samples

    def sample(self, number: int) -> Sample | BadSample:
        """Sample number ``number``, counted over all epochs."""
        return self._read(*self.order.at(number))

    def substitute(self, slot: int, attempt: int) -> Sample | BadSample:
        """A sample in place of a bad one: any, so that no neighbor comes twice as often."""
        generator = np.random.default_rng([SUBSTITUTE_STREAM, *self.key, slot, attempt])
        return self._read(*self.order.at(int(generator.integers(self.num_samples))))

    def _read(self, shard: int, number: int) -> Sample | BadSample:
        index = self.shards[shard]
        raw = index.read(number)
        try:
            return self._decode(raw)
        except BadSampleError as error:
            return BadSample(shard=index.url, key=raw.key, reason=str(error))

    def _decode(self, raw: RawSample) -> Sample:
        check_members(raw)
        caption = find_caption(raw, self.recipe.caption)
        context = read_context(raw) if self.is_embedded else None
        image = decode_image(find_image(raw))
        if min(image.size) < self.recipe.min_side:
            raise BadSampleError("image too small", f"{image.width} x {image.height}")
        return Sample(
            key=raw.key,
            image=resize_and_crop(image, self.image_size),
            caption=caption,
            context=context,
        )


def _are_embedded(shards: Sequence[ShardIndex]) -> bool:
    """Whether the shards have embeddings: all of them or none."""
    nonempty = [shard for shard in shards if len(shard)]
    other = next((shard for shard in nonempty if shard.text != nonempty[0].text), None)
    if other is not None:
        raise TrainingError(
            f"{other.url}: its embeddings differ in kind from those of {nonempty[0].url}; run "
            "minit2i data embed on both with one encoder, caption and length"
        )
    return nonempty[0].text is not None
