"""Shards as a source of samples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from minit2i_deploy.errors import DataWarning, TrainingError
from minit2i_deploy.training.data.embedded_captions import read_context
from minit2i_deploy.training.data.image import read_picture, to_square
from minit2i_deploy.training.data.order import EpochOrder
from minit2i_deploy.training.data.sample import (
    BadSample,
    BadSampleError,
    Sample,
    caption_of,
    check_members,
    picture_of,
)
from minit2i_deploy.training.data.shard_index import ShardIndex
from minit2i_deploy.training.data.tar import RawSample
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
        image_size: side of the pictures in pixels.

    Raises:
        TrainingError: the shards hold no sample.
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
                f"{recipe.shards[0]}: {len(shards)} shards hold no sample; name others"
            )
        for shard in shards:
            if not len(shard):
                warnings.warn(f"{shard.url}: holds no sample", DataWarning, stacklevel=2)
        self.order = EpochOrder(seed, number, sizes, window)
        self.is_embedded = _is_embedded(shards)

    @property
    def num_samples(self) -> int:
        return self.order.num_samples

    def sample(self, number: int) -> Sample | BadSample:
        """Sample number ``number``, counted over all epochs."""
        return self._read(*self.order.at(number))

    def substitute(self, slot: int, attempt: int) -> Sample | BadSample:
        """A sample in place of a bad one: any, so that no neighbour comes twice as often."""
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
        caption = caption_of(raw, self.recipe.caption)
        context = read_context(raw) if self.is_embedded else None
        image = read_picture(picture_of(raw))
        if min(image.size) < self.recipe.min_side:
            raise BadSampleError("picture too small", f"{image.width} x {image.height}")
        return Sample(
            key=raw.key, image=to_square(image, self.image_size), caption=caption, context=context
        )


def _is_embedded(shards: Sequence[ShardIndex]) -> bool:
    """Whether the shards hold embeddings; all of them or none."""
    full = [shard for shard in shards if len(shard)]
    other = next((shard for shard in full if shard.text != full[0].text), None)
    if other is not None:
        raise TrainingError(
            f"{other.url}: its embeddings are not made as those of {full[0].url}; run minit2i data "
            "embed over both with one encoder, caption and length"
        )
    return full[0].text is not None
