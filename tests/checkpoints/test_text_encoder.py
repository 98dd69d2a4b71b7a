"""One check of a text encoder's folder, at every door: training, embedding and export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minit2i_deploy.checkpoints.text_encoder import check_encoder_config, check_tokenizer
from minit2i_deploy.errors import CheckpointError, Minit2iError, UsageError
from minit2i_deploy.export.graphs.text_encoder import open_text_encoder
from minit2i_deploy.tokenizer import Tokenizer
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.data.shards.embed import open_encoder
from tests.helpers.training_runs import tiny_recipe

RECIPE = tiny_recipe()
TOKENIZER = RECIPE.tokenizer_folder


def to_embed(folder: Path) -> object:
    return open_encoder(folder, TOKENIZER, prompt_length=20, caption="txt", dtype="fp32")


DOORS: dict[str, Callable[[Path], object]] = {
    "export": lambda folder: open_text_encoder(folder, 128),
    "train": lambda folder: CaptionEncoder(folder, TOKENIZER, 20, 128),
    "data embed": to_embed,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped text encoder."""
    return Path(shutil.copytree(RECIPE.text_encoder_folder, tmp_path / "t5"))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    tensors = {change(name): value for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values), encoding="utf-8")


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    """Each way that a text encoder comes in."""
    return DOORS[request.param]


def refused(door: Callable[[Path], object], folder: Path) -> str:
    with pytest.raises(Minit2iError) as caught:
        door(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_wrappers_prefix_is_named(door: Callable[[Path], object], folder: Path) -> None:
    rename(folder, lambda name: f"text_encoder.{name}")
    text = refused(door, folder)
    assert "21 tensors are missing or of another shape, first encoder.block.0" in text
    assert "21 tensors are unknown, first text_encoder.encoder.block.0" in text
    assert text.endswith("remove the prefix 'text_encoder.' of a wrapper")


def test_a_missing_tensor_is_named(door: Callable[[Path], object], folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, path, {"format": "pt"})
    assert "1 tensors are missing or of another shape, first encoder.final_layer_norm" in refused(
        door, folder
    )


def test_layers_that_the_settings_do_not_have_are_named(
    door: Callable[[Path], object], folder: Path
) -> None:
    set_config(folder, num_layers=1)
    assert "9 tensors are unknown, first encoder.block.1" in refused(door, folder)


def test_another_kind_of_model_is_refused(door: Callable[[Path], object], folder: Path) -> None:
    set_config(folder, model_type="umt5")
    assert "expected a T5, got model_type 'umt5'" in refused(door, folder)


def test_a_complete_t5_is_taken(door: Callable[[Path], object], tmp_path: Path) -> None:
    encoder = transformers.T5EncoderModel.from_pretrained(RECIPE.text_encoder_folder)
    config = encoder.config
    config.is_encoder_decoder, config.decoder_start_token_id = True, 0
    complete = transformers.T5ForConditionalGeneration(config)
    complete.load_state_dict(encoder.state_dict(), strict=False)
    complete.save_pretrained(tmp_path / "t5")
    opened = door(tmp_path / "t5")
    assert opened is not None
    if isinstance(opened, torch.nn.Module):
        assert torch.equal(opened.shared.weight, encoder.shared.weight)


def test_other_special_ids_are_refused(door: Callable[[Path], object], folder: Path) -> None:
    set_config(folder, eos_token_id=2)
    if door is DOORS["export"]:
        tokenizer = Tokenizer.open(TOKENIZER, 20)
        with pytest.raises(UsageError, match="eos_token_id is 1 but the text encoder's is 2"):
            check_tokenizer(TOKENIZER, tokenizer, open_text_encoder(folder, 128).config)
        return
    with pytest.raises(UsageError, match="eos_token_id is 1 but the text encoder's is 2"):
        door(folder)


def test_a_named_encoder_has_its_sizes(folder: Path) -> None:
    large = {
        "d_model": 1024,
        "d_ff": 2816,
        "d_kv": 64,
        "num_heads": 16,
        "num_layers": 24,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
    }
    set_config(folder, **large)
    check_encoder_config(folder, 1024, "google/flan-t5-large")
    # T5 of the first release, which is as wide.
    set_config(folder, d_ff=4096, feed_forward_proj="relu")
    check_encoder_config(folder, 1024)
    with pytest.raises(UsageError, match="d_ff is 4096, but the network was trained with google"):
        check_encoder_config(folder, 1024, "google/flan-t5-large")


def test_a_config_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        check_encoder_config(folder, 128)
