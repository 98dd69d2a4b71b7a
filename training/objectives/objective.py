"""The protocol of an objective: what a training step minimizes, apart from the loop around it."""

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
        positions: B positions in the step's global batch, ascending; random draws belong to them.
    """

    images: Tensor
    context: Tensor
    mask: Tensor
    captions: Sequence[str]
    positions: Sequence[int]


class Objective(Protocol):
    """Flow matching of a base model or of its adapters, or a distillation."""

    @property
    def teacher_sha256(self) -> str | None:
        """Digest of the teacher's weights; None without a teacher."""

    @property
    def base_sha256(self) -> str | None:
        """Digest of the weights that adapters are trained on; None without adapters."""

    @property
    def image_flops(self) -> float:
        """Floating-point operations of one image in one step, without the text encoder's."""

    def initialize(self, net: MMJiT) -> None:
        """Give a new network its first weights, in place."""

    def deployable_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A complete network's weights from the trained ones, float32 on the CPU.

        The given tensors are not changed.
        """

    def loss(self, net: nn.Module, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Scalars: what step number ``step`` (from 0) minimizes, and what is reported of it.

        Both are means over the micro-batch. Random numbers are drawn on the CPU from the seed, the
        step and the images' positions.

        Args:
            net: what ``parallel.parallelize`` returned.
            batch: this process's micro-batch.
            step: optimizer steps made before.
        """
