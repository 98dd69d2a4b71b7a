"""The small vocabulary against SentencePiece itself, and the making of the encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import torch

from minit2i_deploy.errors import UsageError
from minit2i_deploy.evaluation.shapes import held_out_captions, vocabulary_corpus
from minit2i_deploy.tokenizer import Tokenizer
from minit2i_deploy.training import make_text_encoder
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.small_text_encoder import TextEncoderRecipe, pad_ids
from tests.helpers.training_runs import tiny_recipe

SHIPPED = tiny_recipe().tokenizer_folder

ODD = [
    "",
    " ",
    "   ",
    " a red circle",
    "a red circle ",
    "a  red   circle",
    "!!!!!!",
    "a red circle!!!!!!",
    "a red, blue. and green! circle?",
    "A RED CIRCLE",
    "a\tred\tcircle",
    "a\nred\r\ncircle",
    "a\u00a0red\u3000circle",
    "caf\u00e9 \u00e9\u00e8 e\u0301",
    "a \U0001f600 circle",
    "\U0001f600\U0001f600\U0001f600",
    "\u4f60\u597d circle",
    "\ufb01ne \u00bd \u2026 \u201cquoted\u201d",
    "\u2581a\u2581red",
    "a\u200bred\x01circle\x7f",
    "don't (stop) [now] {or} <never> #1 @2 ~3",
    "x" * 200,
    "circles" * 30,
]


def ids_of(folder: Path, texts: list[str]) -> list[list[int]]:
    return [encoded.ids.tolist() for encoded in Tokenizer.open(folder, 1000).encode(texts)]


def assert_same_as_sentencepiece(folder: Path, texts: list[str]) -> None:
    reference = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    expected = [[*ids, 1] for ids in reference.encode(texts)]
    actual = ids_of(folder, texts)
    different = [text for text, a, b in zip(texts, actual, expected, strict=True) if a != b]
    assert different == []


def test_every_caption_is_cut_as_sentencepiece_cuts_it() -> None:
    captions = [*vocabulary_corpus(), *(caption for _, caption in held_out_captions(100, 0))]
    assert len(captions) > 7000
    assert_same_as_sentencepiece(SHIPPED, captions)


@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_text_is_cut_as_sentencepiece_cuts_it(text: str) -> None:
    assert_same_as_sentencepiece(SHIPPED, [text])


def test_names_of_special_tokens_stand_for_them_as_in_t5() -> None:
    # Here Hugging Face's tokenizers differ from SentencePiece, which spells such names out.
    assert ids_of(SHIPPED, ["</s>", "<pad>", "<unk>"]) == [[1, 1], [0, 1], [2, 1]]


def test_printable_text_has_no_unknown_piece_and_captions_fit() -> None:
    printable = "".join(map(chr, range(0x21, 0x7F)))
    assert 2 not in ids_of(SHIPPED, [printable])[0]
    lengths = [len(ids) for ids in ids_of(SHIPPED, list(vocabulary_corpus()))]
    assert max(lengths) == 16 <= tiny_recipe().model.prompt_length


def test_a_new_encoder_is_one_that_training_reads(tmp_path: Path) -> None:
    recipe = TextEncoderRecipe(
        d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=1, steps=20, batch=8, lr=3e-3
    )
    accuracy = make_text_encoder(tmp_path / "made", recipe)
    assert 0 <= accuracy <= 1
    report = json.loads((tmp_path / "made" / "text_encoder" / "recipe.json").read_text("utf-8"))
    assert report["masked_accuracy"] == accuracy and report["d_model"] == 16
    encode = CaptionEncoder(
        tmp_path / "made" / "text_encoder", tmp_path / "made" / "tokenizer", 20, 16
    )
    context, mask = encode(["a red circle", "a blue circle"])
    assert torch.isfinite(context).all() and mask.sum() >= 6
    assert not torch.equal(context[0], context[1])
    # The vocabulary depends on the captions alone, so it is the shipped one.
    made = tmp_path / "made" / "tokenizer"
    assert (made / "tokenizer.json").read_bytes() == (SHIPPED / "tokenizer.json").read_bytes()
    # A model file would carry the path it was trained at.
    assert str(tmp_path).encode() not in (made / "spiece.model").read_bytes()
    assert sorted(file.name for file in made.iterdir()) == sorted(
        file.name for file in SHIPPED.iterdir()
    )
    with pytest.raises(UsageError, match="not empty"):
        make_text_encoder(tmp_path / "made", recipe)


def test_padding() -> None:
    ids, attention = pad_ids([[5, 6, 1], [1]])
    assert ids.tolist() == [[5, 6, 1], [1, 0, 0]]
    assert attention.tolist() == [[1, 1, 1], [1, 0, 0]]
