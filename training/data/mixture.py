"""The mixture of a recipe's sources: which sample fills each slot of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from minit2i_deploy.errors import TrainingError
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.training.data.order import Mix
from minit2i_deploy.training.data.sample import BadSample, Sample, Source
from minit2i_deploy.training.data.shapes_source import ShapesSource
from minit2i_deploy.training.data.shards import storage
from minit2i_deploy.training.data.shards.embeddings import check_embedding_info
from minit2i_deploy.training.data.shards.index import open_indexes
from minit2i_deploy.training.data.shards.source import ShardSource
from minit2i_deploy.training.recipe.data import SourceRecipe
from minit2i_deploy.training.recipe.recipe import Recipe

# Samples tried for one slot before all of the data is considered broken.
ATTEMPTS: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Mixture:
    """Samples by slot; slot i is the same sample on any process at any time.

    Args:
        mix: assigns slots to sources.
        sources: opened.
        digest: of everything the order depends on except the seed and the batch.
    """

    mix: Mix
    sources: Sequence[Source]
    digest: str

    @property
    def num_samples(self) -> int | None:
        """Different samples; None where they are unlimited."""
        sizes = [source.num_samples for source in self.sources]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def is_drawn(self) -> bool:
        """Whether all samples are drawn and nothing is read."""
        return all(isinstance(source, ShapesSource) for source in self.sources)

    @property
    def is_embedded(self) -> bool:
        """Whether samples come with embeddings."""
        return any(isinstance(s, ShardSource) and s.is_embedded for s in self.sources)

    def at(self, slot: int) -> tuple[Sample, list[BadSample]]:
        """The sample of a slot, and the bad ones that it replaces.

        Raises:
            TrainingError: 32 samples in a row are bad, or a shard cannot be read.
        """
        number, index = self.mix.at(slot)
        source, bad = self.sources[number], []
        sample = source.sample(index)
        while isinstance(sample, BadSample):
            bad.append(sample)
            if len(bad) == ATTEMPTS:
                raise TrainingError(
                    f"{sample}; the {ATTEMPTS - 1} samples drawn before it are bad too; run "
                    "minit2i data check"
                )
            sample = source.substitute(slot, len(bad))
        return sample, bad


def open_mixture(recipe: Recipe, progress: Progress = no_progress) -> Mixture:
    """Open every source of a recipe.

    Args:
        recipe: its data, seed, batch, image size and text encoder.
        progress: called with the share of a source's shards that are open.

    Raises:
        UsageError: shard names that match nothing.
        TrainingError: shards that are missing, corrupt, empty, or embedded by another encoder.
    """
    sources = [
        _open_source(recipe, number, source, progress)
        for number, source in enumerate(recipe.data.sources)
    ]
    embedded = {isinstance(s, ShardSource) and s.is_embedded for s in sources}
    if len(embedded) == 2:
        raise TrainingError(
            "recipe: data mixes sources with embeddings and without; run minit2i data embed over "
            "all of them or none"
        )
    weights = [source.weight for source in recipe.data.sources]
    return Mixture(mix=Mix(recipe.seed, weights), sources=sources, digest=_digest(recipe, sources))


def _open_source(
    recipe: Recipe,
    number: int,
    source: SourceRecipe,
    progress: Progress,
) -> Source:
    size = recipe.model.image_size
    if source.is_drawn:
        return ShapesSource(
            seed=recipe.seed, page=recipe.batch, image_size=size, kind_weights=recipe.kind_weights
        )
    opened = ShardSource(
        source,
        open_indexes(storage.expand_names(source.shards), recipe.data.cache, progress),
        number=number,
        seed=recipe.seed,
        window=recipe.data.window,
        image_size=size,
    )
    if opened.is_embedded:
        check_embedding_info(opened.shards, recipe, source.caption)
    return opened


def _digest(recipe: Recipe, sources: Sequence[Source]) -> str:
    parts: list[object] = [recipe.data.window]
    for source_recipe, source in zip(recipe.data.sources, sources, strict=True):
        parts.append([source_recipe.weight, source_recipe.caption, source_recipe.min_side])
        if isinstance(source, ShardSource):
            # Names without their folders: the data may be elsewhere on the machine that resumes.
            parts.append([(s.url.rpartition("/")[2], len(s)) for s in source.shards])
        else:
            parts.append(sorted(recipe.kind_weights.items()))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
