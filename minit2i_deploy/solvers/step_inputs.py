"""Inputs of the step graph: for images that run the same rows, and for images at rows of their own.

In bundles of format version 1 all images of a call share one row and its weights, and no pixel is
known. In version 2 each image has its own (docs/reference/bundle.md, "The step graph").
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from minit2i_deploy.errors import UsageError
from minit2i_deploy.solvers.row import GRAPH_COLUMNS, Known, Row


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepInputs:
    """Inputs besides the state, for a batch whose images run the same rows.

    Args:
        image_shape: batch, 3, H, W.
        tokens: float32 [branches, batch, adapted tokens, hidden].
        known: pixels that stay as they are, or None.
        per_image: whether the graph takes rows and weights of each image: format version 2.

    Raises:
        UsageError: known pixels for a graph that takes none.
    """

    image_shape: tuple[int, ...]
    tokens: Float32[np.ndarray, "branches batch adapted hidden"]
    known: Known | None
    per_image: bool

    def __post_init__(self) -> None:
        if self.known is not None and not self.per_image:
            raise UsageError(CANNOT_EDIT)

    def fixed(self, branches: int) -> dict[str, np.ndarray]:
        """What stays the same in all rows of so many branches, in C order.

        The arrays of fewer branches are the first parts of those of more.
        """
        tokens = np.ascontiguousarray(self.tokens[:branches])
        if not self.per_image:
            return {"tokens": tokens}
        batch, _, height, width = self.image_shape
        places = np.arange(branches * batch, dtype=np.int64)
        mask_shape = (batch, 1, height, width)
        known = self.known
        return {
            "tokens": tokens.reshape(-1, *tokens.shape[2:]),
            "image": places % batch,
            "sequence": places.reshape(branches, batch),
            "known": _array(None if known is None else known.image, self.image_shape),
            "known_mask": _array(None if known is None else known.mask, mask_shape),
        }

    def shapes(self, branches: int) -> dict[str, tuple[int, ...]]:
        """Shapes of all inputs of the graph in rows of so many branches, by name."""
        row = Row(
            values=np.zeros(len(GRAPH_COLUMNS), np.float32), weights=np.zeros(branches, np.float32)
        )
        arrays = self.fixed(branches) | self.of_row(row)
        states = dict.fromkeys(("x", "h"), self.image_shape)
        return states | {name: array.shape for name, array in arrays.items()}

    def of_row(self, row: Row) -> dict[str, np.ndarray]:
        """A row's own inputs, in C order: float32."""
        if not self.per_image:
            return {
                "weights": np.ascontiguousarray(row.weights),
                "row": np.ascontiguousarray(row.values),
            }
        batch = self.image_shape[0]
        return {
            "weights": np.repeat(row.weights[:, None], batch, axis=1),
            "row": np.repeat(row.values[None], batch, axis=0),
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageStep:
    """One image in a step that it shares with others.

    Args:
        x: float32 [3, H, W], its state.
        h: float32 [3, H, W], its history slot, or unit noise where the row draws noise.
        tokens: float32 [branches, adapted tokens, hidden], at least as many as the row's weights.
        row: its own.
        known: its pixels that stay, a batch of one, or None.
    """

    x: Float32[np.ndarray, "3 height width"]
    h: Float32[np.ndarray, "3 height width"]
    tokens: Float32[np.ndarray, "branches adapted hidden"]
    row: Row
    known: Known | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepBatch:
    """A step of images at rows of their own, as the step graph of format version 2 takes it.

    Args:
        x: float32 [batch, 3, H, W], states.
        h: float32 [batch, 3, H, W], history slots, or unit noise where a row draws noise.
        tokens: float32 [sequences, adapted tokens, hidden].
        image: int64 [sequences], place in the batch of a sequence's image.
        sequence: int64 [branches, batch], place of each branch of an image, the conditional one
            first; an image with fewer branches names one of its own again, with weight 0.
        weights: float32 [branches, batch].
        row: float32 [batch, 6], ``row.GRAPH_COLUMNS``.
        known: pixels that stay as they are, or None.
    """

    x: Float32[np.ndarray, "batch 3 height width"]
    h: Float32[np.ndarray, "batch 3 height width"]
    tokens: Float32[np.ndarray, "sequences adapted hidden"]
    image: Int64[np.ndarray, " sequences"]
    sequence: Int64[np.ndarray, "branches batch"]
    weights: Float32[np.ndarray, "branches batch"]
    row: Float32[np.ndarray, "batch 6"]
    known: Known | None = None

    @classmethod
    def join(cls, images: Sequence[ImageStep]) -> StepBatch:
        """Images that are to run their next row together.

        Raises:
            UsageError: there are none.
        """
        if not images:
            raise UsageError("expected at least one image to step, got none")
        counts = tuple(len(item.row.weights) for item in images)
        image, sequence = _places(counts)
        weights = np.zeros(sequence.shape, np.float32)
        for place, item in enumerate(images):
            weights[: counts[place], place] = item.row.weights
        return cls(
            x=stacked([item.x for item in images]),
            h=stacked([item.h for item in images]),
            tokens=_end_to_end([item.tokens[: len(item.row.weights)] for item in images]),
            image=image,
            sequence=sequence,
            weights=weights,
            row=np.stack([item.row.values for item in images]),
            known=_joined([item.known for item in images], images[0].x.shape),
        )

    def inputs(self) -> dict[str, np.ndarray]:
        """Inputs of the step graph of format version 2, by name."""
        batch, _, height, width = self.x.shape
        known = self.known
        return {
            "x": self.x,
            "h": self.h,
            "tokens": self.tokens,
            "image": self.image,
            "sequence": self.sequence,
            "weights": self.weights,
            "row": self.row,
            "known": _array(None if known is None else known.image, self.x.shape),
            "known_mask": _array(None if known is None else known.mask, (batch, 1, height, width)),
        }


CANNOT_EDIT = (
    "this bundle cannot edit images, because its step graph is of format version 1; re-run "
    "minit2i export"
)


@functools.lru_cache(maxsize=1024)
def _places(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """``image`` and ``sequence`` of images with so many branches; not to be written to."""
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    branches = np.arange(max(counts))[:, None]
    # An absent branch is the image's first one again: of its own, so that no NaN comes in.
    sequence = firsts + np.where(branches < np.array(counts), branches, 0)
    return np.repeat(np.arange(len(counts)), counts).astype(np.int64), sequence


def _end_to_end(parts: Sequence[np.ndarray]) -> Float32[np.ndarray, "..."]:
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)


def stacked(parts: Sequence[np.ndarray]) -> Float32[np.ndarray, "..."]:
    """Arrays of one shape as one; a copy only where they are not, in order, all rows of an array.

    States that advance together again and again lie together already, in the outputs of the step
    before.
    """
    base = parts[0].base
    if isinstance(base, np.ndarray) and base.shape == (len(parts), *parts[0].shape):
        rows = zip(parts, base, strict=True)
        if base.flags.c_contiguous and all(
            part.base is base and part.ctypes.data == row.ctypes.data for part, row in rows
        ):
            return base
    return np.stack(parts)


def _array(values: np.ndarray | None, shape: tuple[int, ...]) -> Float32[np.ndarray, "..."]:
    return np.zeros(shape, np.float32) if values is None else np.ascontiguousarray(values)


def _joined(parts: Sequence[Known | None], shape: tuple[int, ...]) -> Known | None:
    if all(part is None for part in parts):
        return None
    nothing = Known(
        image=np.zeros((1, *shape), np.float32), mask=np.zeros((1, 1, *shape[1:]), np.float32)
    )
    every = [nothing if part is None else part for part in parts]
    return Known(
        image=np.concatenate([part.image for part in every]),
        mask=np.concatenate([part.mask for part in every]),
    )
