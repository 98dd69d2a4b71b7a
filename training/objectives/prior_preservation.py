"""What an adapter is to leave as it is: the base's own answers where nothing new is asked for."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from minit2i_deploy.checkpoints import Checkpoint
from minit2i_deploy.errors import DataWarning
from minit2i_deploy.model.build import build_network
from minit2i_deploy.training.distributed.parallel import compile_blocks
from minit2i_deploy.training.recipe.recipe import Recipe

# Captions without any of the words before the words are taken for a mistake.
_PATIENCE: Final = 1000


class Prior:
    """A base that stands still, and the words that mark what it does not know.

    Where a caption has none of the words, its picture is only a place to ask: the adapted network
    is to give what the base gives there. That has no noise of its own, where the picture would
    bring the base back only in the mean. Whether the caption is dropped makes no difference: of
    what is new the unconditional branch learns too, or guidance would lead away from it.

    Args:
        base: its checkpoint.
        recipe: with ``lora.new_words`` set.
        device: where the network computes.
    """

    def __init__(self, base: Checkpoint, recipe: Recipe, device: torch.device) -> None:
        assert recipe.lora is not None, "a recipe with lora is needed here"
        self.net = build_network(base).to(device)
        if recipe.compile:
            compile_blocks(self.net)
        self._words = recipe.lora.new_words
        self._left = _PATIENCE
        words = "|".join(re.escape(word) for word in self._words)
        self._new = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)

    def has_new(self, captions: Sequence[str]) -> Tensor:
        """Which captions have one of the words, as a whole word in any case; bool [B].

        Warns once where the first thousand have none: nothing is learned from them.
        """
        found = torch.tensor([self._new.search(text) is not None for text in captions])
        if self._left > 0:
            self._left = 0 if found.any() else self._left - len(captions)
            if self._left <= 0 and not found.any():
                warnings.warn(
                    f"none of the first {_PATIENCE} captions has any of lora.new_words, "
                    f"{', '.join(self._words)}; the adapter learns nothing until one does",
                    DataWarning,
                    stacklevel=2,
                )
        return found

    @torch.no_grad()
    def wanted(
        self, images: Tensor, new: Tensor, x: Tensor, context: Tensor, mask: Tensor
    ) -> Tensor:
        """What the adapted network is to give.

        Args:
            images: float32 [B, 3, H, W], the data's.
            new: bool [B], captions with something new.
            x: float32 [B, 3, H, W], the noisy pictures.
            context: [B, L, width].
            mask: [B, L], after caption dropping.

        Returns:
            float32 [B, 3, H, W]: the images that show something new, else the base's x0.
        """
        known = self.net(x, context, mask).to(torch.float32)
        return torch.where(new.reshape(-1, 1, 1, 1), images, known)
