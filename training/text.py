"""The frozen text encoder as training sees it: captions to context and mask."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from minit2i_deploy.errors import TrainingError, require
from minit2i_deploy.tokenizer import Tokenizer
from minit2i_deploy.training.text_encoder import pad_ids

CACHE_CAPTIONS = 50_000


class FrozenText:
    """Encodes captions once and remembers them; exact, because the encoder is frozen.

    Args:
        text_encoder: folder of a T5 encoder in Hugging Face form.
        tokenizer: folder of its tokenizer.json.
        prompt_length: tokens a caption is padded or truncated to.
        width: width of the encoder's output that the network expects.

    Raises:
        TrainingError: the encoder's width is another one.
    """

    def __init__(self, text_encoder: str, tokenizer: str, prompt_length: int, width: int) -> None:
        self.prompt_length, self.width = prompt_length, width
        self.tokenizer = Tokenizer.open(Path(tokenizer), prompt_length)
        transformers = require("transformers", "train")
        self.encoder = transformers.T5EncoderModel.from_pretrained(
            text_encoder, local_files_only=True, dtype=torch.float32
        ).eval()
        if self.encoder.config.d_model != width:
            raise TrainingError(
                f"{text_encoder}: the encoder's width is {self.encoder.config.d_model}, but the "
                f"network takes {width}; set model.txt_input_size or use another encoder"
            )
        self._cache: dict[str, Tensor] = {}

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Encode captions.

        Returns:
            context float32 [n, prompt_length, width], zero at padding, and mask [n, prompt_length].
        """
        missing = sorted({caption for caption in captions if caption not in self._cache})
        if missing:
            self._encode(missing)
        context = torch.zeros(len(captions), self.prompt_length, self.width)
        mask = torch.zeros(len(captions), self.prompt_length)
        for row, caption in enumerate(captions):
            values = self._cache[caption]
            context[row, : len(values)] = values
            mask[row, : len(values)] = 1
        return context, mask

    @torch.no_grad()
    def _encode(self, captions: list[str]) -> None:
        if len(self._cache) + len(captions) > CACHE_CAPTIONS:
            self._cache.clear()
        ids = [encoded.ids.tolist() for encoded in self.tokenizer.encode(captions)]
        padded, attention = pad_ids(ids)
        hidden = self.encoder(padded, attention).last_hidden_state
        for caption, values, length in zip(captions, hidden, map(len, ids), strict=True):
            self._cache[caption] = values[:length].clone()
