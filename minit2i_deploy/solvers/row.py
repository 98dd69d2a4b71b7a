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


def advance(
    x: Float[np.ndarray, "batch 3 height width"],
    h: Float[np.ndarray, "batch 3 height width"],
    x0: Float[np.ndarray, "branches batch 3 height width"],
    weights: Float[np.ndarray, " branches"],
    row: Float[np.ndarray, " 6"],
) -> tuple[
    Float[np.ndarray, "batch 3 height width"],
    Float[np.ndarray, "batch 3 height width"],
]:
    """Run one row in numpy: the arithmetic inside the step graph, and its test oracle.

    Args:
        x: float32 [batch, 3, H, W], the noisy image.
        h: float32 [batch, 3, H, W], the history slot, or unit noise where the row draws noise.
        x0: float32 [branches, batch, 3, H, W], each branch's estimate of the clean image.
        weights: float32 [branches], conditional branch first.
        row: float32 [6], GRAPH_COLUMNS.

    All five may be float64 together, to check a table rather than a graph.

    Returns:
        x', h': the next state and history, shaped and typed as x.

    Raises:
        UsageError: the arrays are not of one dtype, which would change the rounding silently.

    Source: guidance, Ho and Salimans 2207.12598; rescale, Lin et al. 2305.08891 equations 15 and
    16, here on x0 and over channels, height and width.
    """
    dtypes = {str(array.dtype) for array in (x, h, x0, weights, row)}
    if len(dtypes) != 1:
        raise UsageError(f"advance takes arrays of one dtype, got {sorted(dtypes)}")
    a, b, c, s, clip, rescale = row
    # Each branch before guidance, which would scale an outlier up.
    if clip > 0:
        x0 = np.clip(x0, -clip, clip)
    y = (weights[:, None, None, None, None] * x0).sum(axis=0)
    if rescale > 0:
        std, cond_std = (v.std(axis=(1, 2, 3), keepdims=True) for v in (y, x0[0]))
        y = y * (1 + rescale * (cond_std / np.maximum(std, x.dtype.type(STD_FLOOR)) - 1))
    return a * x + b * y + c * h, y + s * x
