"""What the engine is asked for, and what it tells of it.

Listeners are called on the engine's thread and must return at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from minit2i_deploy.request import Request
from minit2i_deploy.serving.engine.image_state import ImageState
from minit2i_deploy.serving.scheduling.job import Job
from minit2i_deploy.tokenizer import Encoded


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowDone:
    """A row of an image that is watched.

    Args:
        image: its place in the order.
        row: finished rows.
        num_rows: of the table.
        t: time of the row, 0 noise to 1 data.
        estimate: float32 [3, H, W], the guided estimate of the clean image.
    """

    image: int
    row: int
    num_rows: int
    t: float
    estimate: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageDone:
    """A finished image: its place in the order, and x, float32 [3, H, W]."""

    image: int
    x: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageFailed:
    """An image that ends without a result; ``error`` says why."""

    image: int
    error: Exception


ImageEvent = RowDone | ImageDone | ImageFailed


@dataclass(kw_only=True, slots=True, eq=False)
class ImageOrder:
    """The images of one request: one prompt under several seeds.

    Args:
        model: name of the bundle.
        requests: one for each image, alike but for the seed.
        deadline_s: on ``time.monotonic``.
        watched_rows: numbers of finished rows at which the estimate is reported.
        listener: is told of every event.
        jobs: of the scheduler, one for each image; set by the engine.
        tokens: float32 [branches, adapted tokens, hidden], set before the first row.
    """

    model: str
    requests: Sequence[Request]
    deadline_s: float
    watched_rows: frozenset[int]
    listener: Callable[[ImageEvent], None]
    jobs: tuple[Job, ...] = ()
    tokens: np.ndarray | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class ImageTask:
    """One image of an order, as a job's payload."""

    order: ImageOrder
    image: int
    state: ImageState | None = None


@dataclass(kw_only=True, slots=True, eq=False)
class TextOrder:
    """The texts of one request for embeddings.

    Args:
        model: name of the bundle.
        encoded: the tokenized texts.
        deadline_s: on ``time.monotonic``.
        listener: is given the sequences, float32 [tokens, width] each, or what went wrong.
        sequences: those that are encoded, by the position of their text.
    """

    model: str
    encoded: Sequence[Encoded]
    deadline_s: float
    listener: Callable[[list[np.ndarray] | Exception], None] = field(repr=False)
    sequences: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _by_length: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A call is padded to its longest text.
        self._by_length = sorted(
            range(len(self.encoded)), key=lambda index: len(self.encoded[index].ids)
        )

    def positions(self, first: int, count: int) -> list[int]:
        """Positions of the texts number ``first`` to ``first + count`` by length."""
        return self._by_length[first : first + count]

    def settle(self) -> bool:
        """Tell the listener if every text is encoded, and return whether they are."""
        if len(self.sequences) < len(self.encoded):
            return False
        self.listener([self.sequences[index] for index in range(len(self.encoded))])
        return True


class DeadlineExceeded(Exception):
    """A request was not done when its deadline passed."""


class Stopping(Exception):
    """The server stops and takes no more, or its time to finish is over."""
