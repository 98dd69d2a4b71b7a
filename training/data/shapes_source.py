"""The shapes data, drawn during training, as a data source."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import numpy as np

from minit2i_deploy.evaluation.shapes import Scene, draw_scene, sample_scene
from minit2i_deploy.training.data.sample import Sample

DATA_STREAM: Final = 1


class ShapesSource:
    """Images of shapes with captions, never a held-out one.

    Args:
        seed: of the run.
        page: samples drawn by one generator, in sequence; the batch of a run, so that step k of a
            run on shapes alone is page k for any number of processes.
        image_size: side of the images in pixels.
        kind_weights: how often each kind is drawn; empty is equally often.
    """

    num_samples: int | None = None

    def __init__(
        self, *, seed: int, page: int, image_size: int, kind_weights: Mapping[str, float]
    ) -> None:
        self.seed, self.page, self.image_size = seed, page, image_size
        self.kinds = tuple(kind_weights.items())

    def sample(self, number: int) -> Sample:
        """Sample number ``number``."""
        page, index = divmod(number, self.page)
        scene, caption = _scenes(self.seed, page, self.page, self.kinds)[index]
        return Sample(key=str(number), image=draw_scene(scene, self.image_size), caption=caption)

    def substitute(self, slot: int, attempt: int) -> Sample:
        """Never called: no drawn sample is bad."""
        raise AssertionError(f"a drawn sample is bad, in slot {slot}")


@lru_cache(maxsize=4)
def _scenes(
    seed: int, page: int, length: int, kinds: tuple[tuple[str, float], ...]
) -> list[tuple[Scene, str]]:
    rng = np.random.default_rng([DATA_STREAM, seed, page])
    drawn = (sample_scene(rng, weights=dict(kinds) or None) for _ in range(length))
    return [(scene, caption) for scene, _, caption in drawn]
