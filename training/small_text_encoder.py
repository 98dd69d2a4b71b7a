"""A small T5 encoder and its SentencePiece vocabulary, for models trained on one machine.

Real MiniT2I models use FLAN-T5-Large as it is. This makes a stand-in of the same architecture and
the same folder form, trained by masked-token prediction on captions and then frozen.
"""

from __future__ import annotations

import io
import json
import string
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minit2i_deploy.errors import require
from minit2i_deploy.evaluation.shapes import vocabulary_corpus
from minit2i_deploy.io.files import atomic_directory
from minit2i_deploy.progress import ProgressLine
from minit2i_deploy.tokenizer import Tokenizer

PAD, EOS, UNKNOWN = 0, 1, 2
# Far beyond any caption of the shapes data, so none is cut.
MAX_CAPTION_TOKENS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderRecipe:
    """How the small encoder is made.

    Args:
        d_model, d_ff, d_kv, num_heads, num_layers: as in a T5 config.json.
        vocab_size: pieces of the SentencePiece vocabulary, words and characters.
        steps: masked-token training steps.
        batch: captions a step.
        lr: AdamW learning rate, falling linearly to zero.
        mask_share: share of tokens replaced by the unknown token; every token is predicted.
        seed: of initial weights, batches and masks.
    """

    d_model: int = 128
    d_ff: int = 256
    d_kv: int = 32
    num_heads: int = 4
    num_layers: int = 2
    vocab_size: int = 320
    steps: int = 1500
    batch: int = 128
    lr: float = 1e-3
    mask_share: float = 0.15
    seed: int = 0


def make_text_encoder(folder: Path, recipe: TextEncoderRecipe) -> float:
    """Make vocabulary and encoder of the shapes data's training captions.

    Args:
        folder: a new folder; receives tokenizer/ and text_encoder/, both or neither.
        recipe: sizes and training settings.

    Returns:
        accuracy on masked tokens over the last tenth of the steps.

    Raises:
        UsageError: the folder exists and is not empty, or cannot be written.
    """
    captions = list(vocabulary_corpus())
    with atomic_directory(folder) as partial:
        train_vocabulary(captions, partial / "tokenizer", recipe.vocab_size)
        tokenizer = Tokenizer.open(partial / "tokenizer", MAX_CAPTION_TOKENS)
        token_ids = [encoded.ids.tolist() for encoded in tokenizer.encode(captions)]
        return train_encoder(recipe, token_ids, partial / "text_encoder")


def train_vocabulary(captions: Iterable[str], folder: Path, vocab_size: int) -> None:
    """Write spiece.model, tokenizer.json and tokenizer_config.json of a unigram vocabulary.

    Every printable ASCII character is a piece, so any English prompt can be spelled out.
    """
    sentencepiece = require("sentencepiece", "train")
    transformers = require("transformers", "train")
    folder.mkdir(parents=True, exist_ok=True)
    captions = list(captions)
    vocabulary = sorted({word for caption in captions for word in caption.split()})
    # The trainer makes pieces only of strings that occur in two different words: punctuation
    # after a word makes another one.
    punctuated = [word + mark for word in vocabulary for mark in ",.!"]
    characters = [" ".join(string.printable[:94])] * 20
    # Trained into memory, because the trainer writes a path into the model.
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*captions, *punctuated, *characters]),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocab_size,
        character_coverage=1.0,
        pad_id=PAD,
        eos_id=EOS,
        unk_id=UNKNOWN,
        bos_id=-1,
        hard_vocab_limit=False,
        split_by_unicode_script=False,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    tokenizer = transformers.T5TokenizerFast(
        str(folder / "spiece.model"), extra_ids=0, legacy=False, add_prefix_space=True
    )
    tokenizer.save_pretrained(folder)
    # tokenizer_config.json has the special tokens already.
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


def train_encoder(
    recipe: TextEncoderRecipe, token_ids: Sequence[Sequence[int]], folder: Path
) -> float:
    """Train a T5 encoder by masked-token prediction and write it in Hugging Face form.

    Args:
        recipe: sizes and training settings.
        token_ids: the tokenized captions, each ending with the end token.
        folder: receives config.json, model.safetensors and recipe.json.

    Returns:
        accuracy on masked tokens over the last tenth of the steps.
    """
    transformers = require("transformers", "train")
    torch.manual_seed(recipe.seed)
    config = transformers.T5Config(
        vocab_size=1 + max(recipe.vocab_size - 1, *map(max, token_ids)),
        d_model=recipe.d_model,
        d_ff=recipe.d_ff,
        d_kv=recipe.d_kv,
        num_heads=recipe.num_heads,
        num_layers=recipe.num_layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )
    encoder = transformers.T5EncoderModel(config)
    accuracy = _fit(encoder, recipe, token_ids)
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save_pretrained(folder)
    report = asdict(recipe) | {"masked_accuracy": accuracy}
    (folder / "recipe.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return accuracy


def _fit(encoder: Any, recipe: TextEncoderRecipe, token_ids: Sequence[Sequence[int]]) -> float:
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(encoder.parameters(), recipe.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, recipe.steps)
    num_correct = num_masked = 0
    with ProgressLine("text encoder") as progress:
        for step in range(recipe.steps):
            picks = torch.randint(len(token_ids), (recipe.batch,), generator=generator)
            ids, attention = pad_ids([token_ids[i] for i in picks.tolist()])
            masked = (torch.rand(ids.shape, generator=generator) < recipe.mask_share) & (ids > EOS)
            hidden = encoder(ids.masked_fill(masked, UNKNOWN), attention).last_hidden_state
            logits = hidden @ encoder.get_input_embeddings().weight.T * recipe.d_model**-0.5
            loss = F.cross_entropy(logits[attention > 0], ids[attention > 0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step >= recipe.steps * 0.9:
                num_correct += int((logits.argmax(-1) == ids)[masked].sum())
                num_masked += int(masked.sum())
            progress((step + 1) / recipe.steps, f"loss={float(loss.detach()):.4g}")
    return num_correct / max(num_masked, 1)


def pad_ids(token_ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad to the longest: int64 [n, tokens] ids and attention mask."""
    longest = max(len(ids) for ids in token_ids)
    ids = torch.full((len(token_ids), longest), PAD)
    attention = torch.zeros_like(ids)
    for i, values in enumerate(token_ids):
        ids[i, : len(values)] = torch.tensor(values)
        attention[i, : len(values)] = 1
    return ids, attention
