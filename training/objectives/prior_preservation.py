"""Prior preservation: an adapter keeps the base's predictions where a caption has nothing new."""

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

# Captions without a match before the words of the recipe are taken for a mistake.
_CAPTIONS_BEFORE_WARNING: Final = 1000


class PriorPreservation:
    """The frozen base, and the words that mark what it does not know.

    Where a caption has none of the words, its image only gives a place to evaluate: the target of
    the adapted network is the base's own prediction there. It is free of the noise that the image
    as target would have; that would restore the base only in the mean. This holds with and without
    caption dropping: the unconditional branch learns new images too, and guidance would otherwise
    lead away from them.

    Args:
        base: the checkpoint that adapters are trained on.
        recipe: with ``lora.new_words`` set.
        device: where the network computes.
    """

    def __init__(self, base: Checkpoint, recipe: Recipe, device: torch.device) -> None:
        assert recipe.lora is not None, "the recipe has no lora"
        self.net = build_network(base).to(device)
        if recipe.compile:
            compile_blocks(self.net)
        self._new_words = recipe.lora.new_words
        self._captions_before_warning = _CAPTIONS_BEFORE_WARNING
        alternatives = "|".join(re.escape(word) for word in self._new_words)
        self._pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)

    def mentions_new(self, captions: Sequence[str]) -> Tensor:
        """Which captions have one of the words, as a full word in any case; bool [B].

        Warns once if the first thousand captions have none: nothing is learned from them.
        """
        matches = torch.tensor([self._pattern.search(text) is not None for text in captions])
        if self._captions_before_warning > 0:
            self._captions_before_warning -= len(captions)
            if matches.any():
                self._captions_before_warning = 0
            elif self._captions_before_warning <= 0:
                warnings.warn(
                    f"none of the first {_CAPTIONS_BEFORE_WARNING} captions has any of "
                    f"lora.new_words ({', '.join(self._new_words)}); the adapter learns nothing "
                    "until one does",
                    DataWarning,
                    stacklevel=2,
                )
        return matches

    @torch.no_grad()
    def target(
        self, images: Tensor, is_new: Tensor, x: Tensor, context: Tensor, mask: Tensor
    ) -> Tensor:
        """Target x0 of the adapted network.

        Args:
            images: float32 [B, 3, H, W], the data's.
            is_new: bool [B], captions with something new.
            x: float32 [B, 3, H, W], the noisy images.
            context: [B, L, width].
            mask: [B, L], after caption dropping.

        Returns:
            float32 [B, 3, H, W]: images where ``is_new``, else the base's x0.
        """
        prior = self.net(x, context, mask).to(torch.float32)
        return torch.where(is_new.reshape(-1, 1, 1, 1), images, prior)
