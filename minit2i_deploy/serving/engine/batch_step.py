"""One call of the network for images at different rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import numpy as np
from jaxtyping import Float32

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.bundle.step_switch import TIME_ROUNDING
from minit2i_deploy.protocol import Runtime
from minit2i_deploy.serving.engine.image_state import ImageState
from minit2i_deploy.solvers.row import GRAPH_COLUMNS, Row

# x' = y of one branch of weight 1: the estimate itself.
_ESTIMATE: Final = tuple(float(column == "b") for column in GRAPH_COLUMNS)


class BatchStep(Protocol):
    """How the images of a call advance. Another form of the step graph is another class."""

    def run(self, images: Sequence[ImageState]) -> None:
        """Advance each image by one row.

        Args:
            images: of one bundle, at least one, at any rows.

        Raises:
            RuntimeFailure: the engine failed; no image has advanced.
        """


class HostStep:
    """The step of format version 1, whose graph has one row for all images of a call.

    The graph gives each sequence's estimate: one branch, weight 1, x' = y. Guidance and the update
    are float32 numpy (``solvers.row.advance``), image by image. A row without guidance adds one
    sequence to the call and not two.

    Args:
        bundle: that is run.
        runtime: an open runtime of it.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self._runtime = runtime
        switch = bundle.manifest.switch
        self._switch_t = None if switch is None else switch.t
        # The arrays themselves and not their ids, which new arrays take over from freed ones.
        self._members: list[tuple[np.ndarray, int]] = []
        self._tokens = np.zeros((1, 0, 0, 0), np.float32)

    def run(self, images: Sequence[ImageState]) -> None:
        """Advance each image by one row; as in ``BatchStep``."""
        groups = [group for group in self._by_graph(images) if group]
        estimates = [self._estimates(group) for group in groups]
        for group, x0 in zip(groups, estimates, strict=True):
            first = 0
            for image in group:
                last = first + image.num_branches
                image.advance(x0[first:last])
                first = last

    def _by_graph(self, images: Sequence[ImageState]) -> Iterable[list[ImageState]]:
        """The images before and after the switch of step graphs, where the bundle has two."""
        t = self._switch_t
        if t is None:
            return [list(images)]
        late = [image.row.t >= t - TIME_ROUNDING for image in images]
        return [
            [image for image, is_late in zip(images, late, strict=True) if is_late is side]
            for side in (False, True)
        ]

    def _estimates(
        self, images: Sequence[ImageState]
    ) -> Float32[np.ndarray, "sequences 3 height width"]:
        """Every sequence's estimate of the clean image, image by image."""
        x = np.concatenate([np.repeat(image.x[None], image.num_branches, 0) for image in images])
        state = self._runtime.start(x, self._stacked_tokens(images))
        state.step(
            Row(
                values=np.array(_ESTIMATE, np.float32),
                weights=np.ones(1, np.float32),
                index=images[0].row.index,
                t=images[0].row.t,
            )
        )
        return state.state()[0]

    def _stacked_tokens(
        self, images: Sequence[ImageState]
    ) -> Float32[np.ndarray, "1 sequences adapted hidden"]:
        members = [(image.tokens, image.num_branches) for image in images]
        # Most calls have the members of the call before.
        if not _are_same(members, self._members):
            self._tokens = np.concatenate([tokens[:count] for tokens, count in members])[None]
            self._members = members
        return self._tokens


def _are_same(
    members: Sequence[tuple[np.ndarray, int]], others: Sequence[tuple[np.ndarray, int]]
) -> bool:
    return len(members) == len(others) and all(
        one[0] is other[0] and one[1] == other[1]
        for one, other in zip(members, others, strict=True)
    )
