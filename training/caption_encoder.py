"""The frozen text encoder in training: captions to context and mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minit2i_deploy.errors import TrainingError, require
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
        TrainingError: there is no encoder, or its width or vocabulary does not match.
        BundleError: there is no tokenizer.
    """

    def __init__(self, text_encoder: Path, tokenizer: Path, prompt_length: int, width: int) -> None:
        self.prompt_length, self.width = prompt_length, width
        self.tokenizer = Tokenizer.open(tokenizer, prompt_length)
        self.encoder = _open_encoder(text_encoder)
        if self.encoder.config.d_model != width:
            raise TrainingError(
                f"{text_encoder}: the encoder's width is {self.encoder.config.d_model}, but the "
                f"network takes {width}; set model.txt_input_size or use another encoder"
            )
        num_ids = self.tokenizer.rust.get_vocab_size()
        if num_ids > self.encoder.config.vocab_size:
            raise TrainingError(
                f"{tokenizer}: has {num_ids} pieces, but the encoder in {text_encoder} knows "
                f"{self.encoder.config.vocab_size}; set tokenizer to the encoder's own"
            )
        self._cache: dict[str, Tensor] = {}

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


def _open_encoder(folder: Path) -> Any:
    transformers = require("transformers", "train")
    try:
        # Without this file transformers takes the path for the name of a model on its hub.
        (folder / "config.json").read_bytes()
        encoder = transformers.T5EncoderModel.from_pretrained(
            str(folder), local_files_only=True, dtype=torch.float32
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{folder}: cannot be read as a T5 encoder ({reason}); set text_encoder to a folder "
            "in Hugging Face form"
        ) from error
    return encoder.eval()
