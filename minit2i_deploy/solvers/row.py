"""One row of a solver table, and the numpy reference of what the step graph does with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float

from minit2i_deploy.errors import UsageError

GRAPH_COLUMNS: Final = ("a", "b", "c", "s", "clip", "rescale")
# An image of one color has deviation 0.
STD_FLOOR: Final = 1e-8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One row of a table at a guidance scale: one evaluation of the denoiser.

    Args:
        values: float32 [6], GRAPH_COLUMNS, as the step graph takes them. Where ``draws_noise``,
            c is the coefficient n of the fresh noise.
        weights: float32 [branches], weight of each branch's estimate, the conditional one first;
            the first so many branches of the tokens take part.
        index: place in the table, from 0.
        t: time of the evaluation, 0 noise to 1 data.
        draws_noise: whether fresh unit noise takes the place of the history slot.

    Values and weights may be float64 together, to check a table rather than a graph.
    """

    values: Float[np.ndarray, " 6"]
    weights: Float[np.ndarray, " branches"]
    index: int = 0
    t: float = 0.0
    draws_noise: bool = False

    @property
    def slope(self) -> float:
        """The history's s in h' = y + s x: 0, or -1 where the history is relative to x."""
        return float(self.values[GRAPH_COLUMNS.index("s")])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Known:
    """Pixels that an edit leaves as they are: where the mask is 1, estimates become these.

    Args:
        image: float32 [batch, 3, H, W], -1 black to 1 white.
        mask: float32 [batch, 1, H, W], 1 known to 0 open; between, the two are mixed.
    """

    image: Float[np.ndarray, "batch 3 height width"]
    mask: Float[np.ndarray, "batch 1 height width"]

    def clamp(
        self, y: Float[np.ndarray, "batch 3 height width"]
    ) -> Float[np.ndarray, "batch 3 height width"]:
        """An estimate with the known pixels in it, exact where the mask is 0 or 1."""
        return y * (1 - self.mask) + self.image * self.mask


def advance(
    x: Float[np.ndarray, "batch 3 height width"],
    h: Float[np.ndarray, "batch 3 height width"],
    x0: Float[np.ndarray, "branches batch 3 height width"],
    weights: Float[np.ndarray, "branches *batch_or_all"],
    row: Float[np.ndarray, "*batch_or_all 6"],
    known: Known | None = None,
) -> tuple[
    Float[np.ndarray, "batch 3 height width"],
    Float[np.ndarray, "batch 3 height width"],
]:
    """Run one row in numpy: the arithmetic inside the step graph, and its test oracle.

    Args:
        x: float32 [batch, 3, H, W], the noisy image.
        h: float32 [batch, 3, H, W], the history slot, or unit noise where the row draws noise.
        x0: float32 [branches, batch, 3, H, W], each branch's estimate of the clean image.
        weights: float32 [branches], conditional branch first, or [branches, batch], each image's.
        row: float32 [6], GRAPH_COLUMNS, or [batch, 6], each image's.
        known: pixels that replace the estimate's, or None.

    All may be float64 together, to check a table rather than a graph.

    Returns:
        x', h': the next state and history, shaped and typed as x.

    Raises:
        UsageError: the arrays are not of one dtype, which would change the rounding silently.

    Source: guidance, Ho and Salimans 2207.12598; rescale, Lin et al. 2305.08891 equations 15 and
    16, here on x0 and over channels, height and width.
    """
    arrays = (x, h, x0, weights, row, *(() if known is None else (known.image, known.mask)))
    dtypes = {str(array.dtype) for array in arrays}
    if len(dtypes) != 1:
        raise UsageError(f"advance takes arrays of one dtype, got {sorted(dtypes)}")
    a, b, c, s, clip, rescale = (column.reshape(-1, 1, 1, 1) for column in row.T)
    # Each branch before guidance, which would scale an outlier up.
    bound = np.where(clip > 0, clip, np.finfo(x.dtype).max)
    x0 = np.clip(x0, -bound, bound)
    y = (weights.reshape(len(weights), -1, 1, 1, 1) * x0).sum(axis=0)
    if np.any(rescale > 0):
        std, cond_std = (v.std(axis=(1, 2, 3), keepdims=True) for v in (y, x0[0]))
        y = y * (1 + rescale * (cond_std / np.maximum(std, x.dtype.type(STD_FLOOR)) - 1))
    if known is not None:
        y = known.clamp(y)
    return a * x + b * y + c * h, y + s * x
