"""Captions to context and mask, and what is refused before a run starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers

from minit2i_deploy.errors import BundleError, CheckpointError, UsageError
from minit2i_deploy.evaluation.shapes import held_out_captions
from minit2i_deploy.training import caption_encoder as module
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from tests.helpers.tiny_tokenizer import write_tokenizer
from tests.helpers.training_runs import tiny_recipe

RECIPE = tiny_recipe()
CAPTIONS = [caption for _, caption in held_out_captions(4, 0)]


def make_text(length: int = 20, width: int = 128) -> CaptionEncoder:
    return CaptionEncoder(RECIPE.text_encoder_folder, RECIPE.tokenizer_folder, length, width)


def test_values_are_the_encoders_own_and_padding_is_zero() -> None:
    text = make_text()
    context, mask = text(CAPTIONS[:3])
    assert context.shape == (3, 20, 128) and mask.shape == (3, 20)
    for row, caption in enumerate(CAPTIONS[:3]):
        ids = torch.from_numpy(text.tokenizer.encode([caption])[0].ids).unsqueeze(0)
        padded = torch.nn.functional.pad(ids, (0, 30 - ids.shape[1]))
        with torch.no_grad():
            hidden = text.encoder(padded, (padded > 0).long()).last_hidden_state[0]
        length = ids.shape[1]
        assert mask[row].tolist() == [1.0] * length + [0.0] * (20 - length)
        error = (context[row, :length] - hidden[:length]).abs().max()
        assert error <= 1e-5  # measured 1.3e-6
        assert not context[row, length:].any()


def test_neighbours_and_memory_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = make_text()
    together, _ = text(CAPTIONS)
    again, _ = text(CAPTIONS)
    alone = torch.cat([make_text_like(text)([caption])[0] for caption in CAPTIONS])
    assert torch.equal(together, again) and torch.equal(together, alone)
    monkeypatch.setattr(module, "CACHE_CAPTIONS", 5)
    small = make_text_like(text)
    parts = torch.cat([small(CAPTIONS[i : i + 4])[0] for i in range(0, len(CAPTIONS), 4)])
    assert torch.equal(together, parts)


def make_text_like(text: CaptionEncoder) -> CaptionEncoder:
    """The same encoder with an empty memory."""
    fresh = CaptionEncoder.__new__(CaptionEncoder)
    fresh.__dict__ = text.__dict__ | {"_cache": {}}
    return fresh


def test_long_captions_are_cut_to_the_prompt_length() -> None:
    context, mask = make_text(length=5)(["a red circle and a blue square on a white background"])
    assert context.shape == (1, 5, 128) and mask.tolist() == [[1.0] * 5]


def test_an_encoder_of_another_width_is_refused() -> None:
    with pytest.raises(UsageError, match="this T5 is 128 wide but the network takes 64"):
        make_text(width=64)


def test_a_missing_or_broken_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none: no config.json there; name a T5 encoder"):
        CaptionEncoder(tmp_path / "none", RECIPE.tokenizer_folder, 20, 128)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        CaptionEncoder(tmp_path, RECIPE.tokenizer_folder, 20, 128)


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        CaptionEncoder(RECIPE.text_encoder_folder, tmp_path, 20, 128)


def test_a_tokenizer_of_more_pieces_than_the_encoder_knows_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    assert CaptionEncoder(RECIPE.text_encoder_folder, tmp_path, 20, 128)
    config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1)
    transformers.T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(UsageError, match="has 35 tokens but the text encoder has 20"):
        CaptionEncoder(tmp_path / "t5", tmp_path, 20, 8)


def test_weights_that_do_not_fit_their_config_are_refused(tmp_path: Path) -> None:
    shutil.copytree(RECIPE.text_encoder_folder, tmp_path / "t5")
    config = tmp_path / "t5" / "config.json"
    text = config.read_text("utf-8")
    config.write_text(text.replace('"vocab_size": 320', '"vocab_size": 20'), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"cannot be read .*size mismatch"):
        CaptionEncoder(tmp_path / "t5", RECIPE.tokenizer_folder, 20, 128)
