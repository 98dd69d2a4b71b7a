"""Looped-DiT's checkpoints: every form yields the same tensors; what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from minit2i_deploy.checkpoints import canonical_shapes, linear_modules, load_checkpoint
from minit2i_deploy.errors import CheckpointError, UsageError
from tests.helpers.looped import LOOPED, looped_checkpoint, looped_folder, looped_pt

WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_training_state() -> None:
    checkpoint = looped_checkpoint()
    stored = torch.load(looped_pt(), weights_only=True)["ema"]
    expected = stored["blocks.1.img_proj.weight"].numpy()
    assert np.array_equal(checkpoint.tensors["double_blocks.1.img_attn_proj.weight"], expected)
    report = checkpoint.report
    assert (report.form, report.weights, report.step) == ("looped-training", "EMA 0.99995", 12000)
    assert report.text_encoder == "google/flan-t5-large"
    dropped = {item.what: item.num_tensors for item in report.dropped}
    assert dropped == {"t_embedder": 4, "pooled_embedder": 1, "online": 115, "optimizer": 0}
    assert list(checkpoint.tensors) == list(canonical_shapes(checkpoint.config))
    assert checkpoint.config.prompt_length == 12
    online = load_checkpoint(looped_pt(), ema=False)
    assert not np.array_equal(online.tensors["mask_token"], checkpoint.tensors["mask_token"])


def test_folder_equals_the_training_state() -> None:
    expected = looped_checkpoint()
    for path in (looped_folder(), looped_folder() / "transformer"):
        checkpoint = load_checkpoint(path)
        assert checkpoint.report.form == "looped-folder" and checkpoint.config == expected.config
        for name, value in expected.tensors.items():
            assert np.array_equal(checkpoint.tensors[name], value), name


@pytest.mark.parametrize("variant", ["gate", "untied"])
def test_short_states_of_the_variants(variant: str) -> None:
    checkpoint = looped_checkpoint(variant)
    added = json.loads((LOOPED / "keys.json").read_text())[variant]
    assert len(checkpoint.tensors) == len(looped_checkpoint().tensors) + len(added)
    assert ("double_blocks.1.img_gate" in linear_modules(checkpoint.config)) == (variant == "gate")
    with pytest.raises(UsageError, match="holds no online weights"):
        load_checkpoint(looped_pt(variant), ema=False)


def test_early_layout_of_the_folder(tmp_path: Path) -> None:
    """Its names begin with transformer., and its config.json says what the pipeline's says now."""
    source = looped_folder() / "transformer"
    tensors = load_file(source / WEIGHTS)
    save_file({f"transformer.{name}": value for name, value in tensors.items()}, tmp_path / WEIGHTS)
    values = json.loads((source / "config.json").read_text())
    values |= {"_class_name": "LoopedMMDiTModel", "prompt_length": 12, "text_encoder_name": "t5"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.config == looped_checkpoint().config
    assert checkpoint.report.text_encoder == "t5"


def test_prompt_length_of_a_bare_transformer(tmp_path: Path) -> None:
    shutil.copytree(looped_folder() / "transformer", tmp_path / "x")
    assert load_checkpoint(tmp_path / "x").config.prompt_length == 256
    assert load_checkpoint(tmp_path / "x", prompt_length=12).config.prompt_length == 12
    with pytest.raises(UsageError, match=r"prompt_length=7, but .* says 12"):
        load_checkpoint(looped_folder(), prompt_length=7)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"loop_split": [1, 3, 1]}, "missing: double_blocks.4"),
        ({"loop_split": [1, 2]}, r"loop_split is \[1, 2\]"),
        ({"loop_split": [1, 2, 0]}, "loop.post must be a positive integer, got 0"),
        ({"num_loops": 0}, "loop.num_loops must be a positive integer, got 0"),
        ({"share_loop_weights": False}, "missing: double_blocks.4"),
        ({"share_loop_weights": None}, "share_loop_weights None"),
        ({"use_attn_gate": True}, "missing: double_blocks.1.img_gate.bias"),
        ({"use_xsa": "yes"}, "use_xsa must be true or false, got 'yes'"),
        ({"use_xsa": ...}, r"the configuration has no \['use_xsa'\]"),
    ],
)
def test_loops_that_the_weights_cannot_hold(
    values: dict[str, object], text: str, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(looped_folder() / "transformer", folder)
    config = json.loads((folder / "config.json").read_text()) | values
    config = {name: value for name, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=text) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)
