"""Attention heads padded with zeros to a width that an engine's fused kernels accept.

A head of 52 channels becomes one of 56. Each half of it is padded at its own end, so that rotation
still pairs channel i with the channel half a head further on; pads are turned by nothing (cosine
1, sine 0). Zeros in the weights keep every pad zero: of queries, keys and values on their way into
attention, and of the output projection's columns on the way out.

The q/k norm takes its mean over more channels, so with r = 56/52 its result is sqrt(r) times too
large when its epsilon is divided by r: the softmax's scale becomes 52^-0.5 / r and makes up for
queries and keys at once. No weight changes its value, in any precision, and leaving the pads out
restores the network's weights bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, Int64

# The axis along which an attention weight has its heads side by side, by the end of its name.
_AXES: Final[Mapping[str, int]] = {
    "qkv.weight": 0,
    "qkv.bias": 0,
    "q_norm.weight": 0,
    "k_norm.weight": 0,
    "attn_proj.weight": 1,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadPadding:
    """Padding of heads to a greater width, and its inverse.

    Args:
        head_dim: channels of a head, even.
        padded: channels of a padded head, even and greater.

    Raises:
        ValueError: one of the two is odd, or there are no pads.
    """

    head_dim: int
    padded: int

    def __post_init__(self) -> None:
        if self.head_dim % 2 or self.padded % 2 or not 0 < self.head_dim < self.padded:
            raise ValueError(
                f"expected even head widths, the padded one greater, got {self.head_dim} and"
                f" {self.padded}"
            )

    @property
    def softmax_scale(self) -> float:
        """The factor on products of queries and keys."""
        ratio = self.padded / self.head_dim
        return float(self.head_dim**-0.5 / ratio)

    def epsilon(self, epsilon: float) -> float:
        """The q/k norm's epsilon."""
        return epsilon * self.head_dim / self.padded

    def channels(self) -> Int64[np.ndarray, " head_dim"]:
        """Positions of a head's channels in a padded head: int64 [head_dim]."""
        half = np.arange(self.head_dim // 2, dtype=np.int64)
        # Rotation pairs channel i with channel i + width / 2, in both widths.
        return np.concatenate([half, half + self.padded // 2])

    def is_padded(self, name: str) -> bool:
        """Whether the weight of this canonical name has heads to pad."""
        return _axis(name) is not None

    def pad(self, name: str, weight: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """A weight with zeros at the pads.

        Args:
            name: canonical, or the end of one from its block on.
            weight: float32, in the network's layout; a copy only where it has heads.
        """
        axis = _axis(name)
        if axis is None:
            return weight
        heads = _split(weight, axis, self.head_dim)
        wide = np.zeros(
            (*heads.shape[: axis + 1], self.padded, *heads.shape[axis + 2 :]), weight.dtype
        )
        wide[_at(axis, self.channels())] = heads
        return wide.reshape(self.padded_shape(name, weight.shape))

    def unpad(self, name: str, weight: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
        """The inverse of ``pad``."""
        axis = _axis(name)
        if axis is None:
            return weight
        heads = _split(weight, axis, self.padded)[_at(axis, self.channels())]
        return heads.reshape(self.unpadded_shape(name, weight.shape))

    def padded_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a weight with its pads."""
        return _rescaled(name, shape, self.head_dim, self.padded)

    def unpadded_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a weight without its pads."""
        return _rescaled(name, shape, self.padded, self.head_dim)

    def pad_rotary(
        self, table: Float32[np.ndarray, "2 tokens head_dim"]
    ) -> Float32[np.ndarray, "2 tokens padded"]:
        """Cosines and sines that do not rotate the pads: float32 [2, tokens, padded]."""
        wide = np.zeros((*table.shape[:-1], self.padded), table.dtype)
        # Cosine 1 and sine 0 turn nothing.
        wide[0] = 1.0
        wide[..., self.channels()] = table
        return wide


def _axis(name: str) -> int | None:
    return next((axis for end, axis in _AXES.items() if name.endswith(end)), None)


def _at(axis: int, channels: np.ndarray) -> tuple[slice | np.ndarray, ...]:
    """Index of channels in an array whose heads are split."""
    return (*(slice(None),) * (axis + 1), channels)


def _split(weight: np.ndarray, axis: int, width: int) -> np.ndarray:
    """[.., heads * width, ..] as [.., heads, width, ..]."""
    return weight.reshape(*weight.shape[:axis], -1, width, *weight.shape[axis + 1 :])


def _rescaled(name: str, shape: tuple[int, ...], before: int, after: int) -> tuple[int, ...]:
    axis = _axis(name)
    if axis is None:
        return shape
    return (*shape[:axis], shape[axis] * after // before, *shape[axis + 1 :])
