"""What a training step minimises, apart from the loop around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from minit2i_deploy.model.mmjit import MMJiT


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One step's data, on the CPU.

    Args:
        images: float32 [B, 3, H, W] in [-1, 1].
        context: float32 [B, L, width], the text encoder's output.
        mask: [B, L], 1 at real tokens.
    """

    images: Tensor
    context: Tensor
    mask: Tensor


class Objective(Protocol):
    """Flow matching, or Mean Flow distillation."""

    @property
    def teacher_sha256(self) -> str | None:
        """Digest of the teacher's weights; None where there is no teacher."""

    def fill(self, net: MMJiT) -> None:
        """Give a new network its first weights, in place."""

    def loss(self, net: MMJiT, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Scalars: what step number ``step`` (from 0) minimises, and what is reported of it.

        What is random is drawn from (seed, step) on the CPU.
        """
