"""What a training step minimises, apart from the loop around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from minit2i_deploy.model.mmjit import MMJiT


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Data of one micro-batch, on the CPU.

    Args:
        images: float32 [B, 3, H, W] in [-1, 1].
        context: float32 [B, L, width], the text encoder's output.
        mask: [B, L], 1 at real tokens.
        captions: B texts.
        rows: B places in the step's global batch, ascending; what is random belongs to a place.
    """

    images: Tensor
    context: Tensor
    mask: Tensor
    captions: Sequence[str]
    rows: Sequence[int]


class Objective(Protocol):
    """Flow matching of a base model or of its adapters, or Mean Flow distillation."""

    @property
    def teacher_sha256(self) -> str | None:
        """Digest of the teacher's weights; None where there is no teacher."""

    @property
    def base_sha256(self) -> str | None:
        """Digest of the weights that adapters are trained on; None where there are none."""

    @property
    def picture_flops(self) -> float:
        """Floating-point operations of one picture in one step, the text encoder's left out."""

    def fill(self, net: MMJiT) -> None:
        """Give a new network its first weights, in place."""

    def deployed(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A whole network's weights from the trained ones, float32 on the CPU; changes none."""

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Scalars: what step number ``step`` (from 0) minimises, and what is reported of it.

        Both are means over the micro-batch. What is random is drawn on the CPU from the seed, the
        step and the pictures' places.

        Args:
            net: what ``parallel.spread`` returned.
        """
