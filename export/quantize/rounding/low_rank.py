"""A branch of low rank beside a quantized layer, which takes what few bits represent worst.

y = x W becomes x Q(W - L R) + (x L) R, with L R the part of W that carries most of the output.
Source: SVDQuant, Li et al. 2411.05007 section 4, weighted by the second moments of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Branch:
    """Two narrow matrices: float32 ``down`` [inputs, rank] and ``up`` [rank, outputs]."""

    down: Float32[np.ndarray, "inputs rank"]
    up: Float32[np.ndarray, "rank outputs"]

    def product(self) -> Float32[np.ndarray, "inputs outputs"]:
        """What the branch adds to the weight."""
        product: np.ndarray = self.down @ self.up
        return product


def low_rank_branch(
    weight: Float32[np.ndarray, "inputs outputs"],
    moments: Float64[np.ndarray, "inputs inputs"],
    rank: int,
) -> Branch:
    """The product of a rank that leaves least of a layer's output.

    Args:
        weight: float32 [inputs, outputs].
        moments: second moments of the inputs, positive definite.
        rank: at most the smaller side of the matrix is used.

    With C C^T the moments, the error of W' is |C^T (W - W')|, whose best W' of a rank comes from
    the largest singular values of C^T W.
    """
    root = np.linalg.cholesky(moments).T
    left, sizes, right = np.linalg.svd(root @ weight.astype(np.float64), full_matrices=False)
    share = np.sqrt(sizes[:rank])
    down = np.linalg.solve(root, left[:, :rank] * share)
    up = share[:, None] * right[:rank]
    return Branch(down=down.astype(np.float32), up=up.astype(np.float32))
