"""The frozen text encoder in training: captions to context and mask."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minit2i_deploy.checkpoints.text_encoder import check_tokenizer, open_text_encoder
from minit2i_deploy.checkpoints.text_identity import TextIdentity, identify_text
from minit2i_deploy.errors import require
from minit2i_deploy.tokenizer import Tokenizer

CACHE_CAPTIONS = 50_000


class CaptionEncoder:
    """Encodes captions and caches the values; exact, because the encoder is frozen.

    Args:
        text_encoder: folder of a T5 encoder in Hugging Face form.
        tokenizer: folder of its tokenizer.json.
        prompt_length: tokens that a caption is padded or truncated to.
        width: width of the encoder's output that the network expects.

    Raises:
        CheckpointError: the encoder cannot be read, or its tensors are not those of its settings.
        UsageError: the encoder is no T5 or of another width, or the tokenizer is not its own.
        BundleError: there is no tokenizer.
    """

    def __init__(self, text_encoder: Path, tokenizer: Path, prompt_length: int, width: int) -> None:
        self.prompt_length, self.width = prompt_length, width
        self.tokenizer = Tokenizer.open(tokenizer, prompt_length)
        transformers = require("transformers", "train")
        from_pretrained = transformers.T5EncoderModel.from_pretrained
        self.encoder = open_text_encoder(text_encoder, width, from_pretrained)
        check_tokenizer(tokenizer, self.tokenizer, self.encoder.config)
        self._cache: dict[str, Tensor] = {}

    @cached_property
    def identity(self) -> TextIdentity:
        """Which encoder and tokenizer these are."""
        return identify_text(self.encoder, self.tokenizer)

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Encode captions.

        Returns:
            context float32 [n, prompt_length, width], zero at padding, and mask [n, prompt_length].
        """
        if len(self._cache) + len(captions) > CACHE_CAPTIONS:
            self._cache.clear()
        context = torch.zeros(len(captions), self.prompt_length, self.width)
        mask = torch.zeros(len(captions), self.prompt_length)
        for i, caption in enumerate(captions):
            if caption not in self._cache:
                self._cache[caption] = self.encode(caption)
            values = self._cache[caption]
            context[i, : len(values)] = values
            mask[i, : len(values)] = 1
        return context, mask

    def encode(self, caption: str) -> Tensor:
        """The values at one caption's real tokens, float32 [tokens, width]."""
        (encoded,) = self.tokenizer.encode([caption])
        return encode_tokens(self.encoder, torch.from_numpy(encoded.ids))


@torch.no_grad()
def encode_tokens(encoder: Any, ids: Tensor) -> Tensor:
    """The frozen encoder's values of one caption's tokens.

    One caption alone: in a batch the last bits depend on its neighbors, and a resumed run,
    whose cache is empty, has other neighbors.

    Args:
        encoder: a transformers T5EncoderModel.
        ids: int64 [tokens], without padding.

    Returns:
        float32 [tokens, width].
    """
    hidden: Tensor = encoder(ids[None], torch.ones_like(ids)[None]).last_hidden_state
    return hidden[0].clone()
