"""What the record of an edited image says of its input images and of mixed noise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class EditRecord:
    """The input images of an edit, by the hashes of their values, and its settings.

    Args:
        init_image: sha256 of the image that the run began with, or None.
        strength: how much of that image is new, or None; the table starts at 1 - strength.
        known: sha256 of the image of which a part stays, or None.
        mask: sha256 of the share of each pixel that stays, or None.
        feather: pixels over which the mask's border was softened.
        outpaint: pixels added at the left, top, right and bottom, or None.
    """

    init_image: str | None = None
    strength: float | None = None
    known: str | None = None
    mask: str | None = None
    feather: float = 0.0
    outpaint: tuple[int, ...] | None = None

    def readable(self) -> dict[str, str | None]:
        """Text fields for people; None where there is nothing to say."""
        hashes = {"init_image": self.init_image, "known": self.known, "mask": self.mask}
        return {
            **{
                name: None if value is None else f"sha256 {value}" for name, value in hashes.items()
            },
            "strength": None if self.strength is None else repr(self.strength),
            "feather": repr(self.feather) if self.feather else None,
            "outpaint": None if self.outpaint is None else ",".join(map(str, self.outpaint)),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class VariationRecord:
    """Start noise mixed of two seeds.

    Args:
        seed: of the noise that is mixed into that of the record's seed.
        amount: its share, 0 to 1.
    """

    seed: int
    amount: float


def values_digest(values: np.ndarray) -> str:
    """sha256 of an array's float32 values, little endian, in C order."""
    return hashlib.sha256(np.ascontiguousarray(values, dtype="<f4").tobytes()).hexdigest()
