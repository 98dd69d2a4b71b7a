"""One image to generate, and those whose noise is mixed with that of other seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from minit2i_deploy.cli.support.images.generate_options import GenerateOptions
from minit2i_deploy.cli.support.limits import check_least
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.edit_record import VariationRecord
from minit2i_deploy.io.image_record import Record
from minit2i_deploy.solvers.noise import mixed_noise
from minit2i_deploy.text.prompts import Mix

# Prompt, seed and file of each are planned before the first is generated: some hundred MB.
MAX_IMAGES: Final = 1_000_000
_DEFAULT_AMOUNT: Final = 0.1
_NUM_SEEDS: Final = 2**64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageRequest:
    """One image to generate.

    Args:
        prompt: its texts.
        seed: of its noise.
        noise: float32 [3, H, W] of a file in place of the seed's, or None.
        variation: another seed that is mixed into the noise, or None.
    """

    prompt: Mix
    seed: int
    noise: np.ndarray | None = None
    variation: VariationRecord | None = None

    def start_noise(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """float32 [3, H, W] where it is not simply that of the seed, else None."""
        if self.variation is None:
            return self.noise
        return mixed_noise(self.seed, self.variation.seed, self.variation.amount, shape)


def vary_images(
    options: GenerateOptions, requests: Sequence[ImageRequest], record: Record | None
) -> list[ImageRequest]:
    """Every image in --variations of it, or as a record's variation.

    Raises:
        UsageError: a number outside its range, too many images, or variations of a noise file.
    """
    recorded = None if record is None else record.variation
    if options.seed is not None or options.num_images is not None or options.noise is not None:
        recorded = None  # which belongs to the record's seed
    if options.variations is None and recorded is None:
        if options.amount is not None:
            raise UsageError("--amount requires --variations")
        return list(requests)
    if options.noise is not None:
        raise UsageError("--variations and --noise are mutually exclusive")
    _check_amount(options.amount)
    if options.variations is None:
        assert recorded is not None
        amount = recorded.amount if options.amount is None else options.amount
        return [replace(item, variation=replace(recorded, amount=amount)) for item in requests]
    check_least("--variations", options.variations, 1)
    if options.variations * len(requests) > MAX_IMAGES:
        raise UsageError(
            f"--variations {options.variations} of {len(requests)} images exceeds {MAX_IMAGES} "
            "images, which are all planned before the first"
        )
    amount = _DEFAULT_AMOUNT if options.amount is None else options.amount
    return [
        replace(item, variation=VariationRecord(seed=(item.seed + k) % _NUM_SEEDS, amount=amount))
        for item in requests
        for k in range(1, options.variations + 1)
    ]


def _check_amount(amount: float | None) -> None:
    if amount is not None and not 0.0 <= amount <= 1.0:
        raise UsageError(f"--amount: expected 0 (no change) to 1 (the other seed), got {amount}")
