"""One call of the network for images at different rows."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Protocol

from minit2i_deploy.protocol import BatchRuntime
from minit2i_deploy.serving.engine.image_state import ImageState


class BatchStep(Protocol):
    """How the images of a call advance. Another way is another class."""

    def run(self, images: Sequence[ImageState]) -> None:
        """Advance each image by one row.

        Args:
            images: of one bundle, at least one, at any rows.

        Raises:
            RuntimeFailure: the engine failed; no image has advanced.
        """


class RuntimeStep:
    """A runtime's own step of images that come and go, in one call of the step graph.

    In bundles of format version 1 the graph gives the estimates, and guidance and update are
    numpy's. A row without guidance adds one sequence to the call and not two.

    Args:
        runtime: an open runtime.
    """

    def __init__(self, runtime: BatchRuntime) -> None:
        self._runtime = runtime
        # Of the last call: their states are parts of its outputs. Images end when nobody waits.
        self._together: Sequence[weakref.ref[ImageState]] = ()

    def run(self, images: Sequence[ImageState]) -> None:
        """Advance each image by one row; as in ``BatchStep``."""
        for reference in self._together:
            before = reference()
            if before is not None and not any(before is image for image in images):
                before.detach()
        x, h = self._runtime.step_batch([image.step() for image in images])
        for image, x_next, h_next in zip(images, x, h, strict=True):
            image.finish(x_next, h_next)
        self._together = [weakref.ref(image) for image in images]
