"""A safetensors file with its configuration inside; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import CheckpointError
from tests.helpers.checkpoint_forms import SIZES, hub_folder

OURS = ("hidden_size", "depth_double", "num_heads", "head_dim", "mlp_ratio", "patch_size")


def write(path: Path, text_encoder: bool = True, **changes: Any) -> Path:
    tensors = load_file(next(hub_folder().glob("*.safetensors")))
    stored = {f"transformer.{name}": value for name, value in tensors.items()}
    if text_encoder:
        stored["text_encoder.shared.weight"] = np.ones((4, 4), np.float32)
    official = json.loads((hub_folder() / "config.json").read_text())
    values = {name: official[name] for name in (*OURS, "pca_channels", "txt_input_size")}
    width = values["hidden_size"]
    values |= {"txt_hidden_size": width, "cond_vec_size": width, "in_channels": 3}
    values |= {"vae_type": "none", "noise_scale": 2.0, **changes}
    header = {"model_type": "minit2i", "mmjit_config": json.dumps(values)}
    save_file(stored, path, metadata=header)
    return path


def test_the_same_tensors(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write(tmp_path / "m.safetensors"), **SIZES)
    expected = load_checkpoint(hub_folder())
    assert checkpoint.report.form == "single-file" and checkpoint.config == expected.config
    for name, value in expected.tensors.items():
        assert np.array_equal(checkpoint.tensors[name], value), name
    assert "text encoder" in {item.what for item in checkpoint.report.dropped}
    # Found in a folder too, and its sizes are the official ones where nothing is said.
    alone = load_checkpoint(tmp_path)
    assert (alone.config.image_size, alone.config.prompt_length) == (512, 256)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vae_type": "sdxl"}, "a network of latents (vae_type 'sdxl'"),
        ({"noise_scale": 1.0}, "a network of latents"),
        ({"depth_double": 9}, "missing: double_blocks.3"),
        ({"num_experts": 2}, "unknown keys ['num_experts']"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(write(tmp_path / "m.safetensors", **changes), **SIZES)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_header_that_is_no_json(tmp_path: Path) -> None:
    tensors = {"transformer.x": np.ones(1, np.float32)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"mmjit_config": "{"})
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(tmp_path / "m.safetensors")
