"""A transformers folder with code of its own around the official network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import CheckpointError, UsageError
from tests.helpers.checkpoint_forms import CONFIG, hub_folder

SETTINGS: dict[str, Any] = {
    "architectures": ["MMJiTModel"],
    "auto_map": {"AutoConfig": "configuration.MMJiTConfig", "AutoModel": "modeling.MMJiTModel"},
    "model_type": "minit2i",
    "dtype": "float32",
    "transformers_version": "4.57.6",
    "image_size": CONFIG.image_size,
    "prompt_length": CONFIG.prompt_length,
    "hidden_size": CONFIG.hidden_size,
}


def write(folder: Path, prefix: str = "net.", num_files: int = 1, **settings: Any) -> Path:
    folder.mkdir()
    source = load_file(hub_folder() / "diffusion_pytorch_model.safetensors")
    unused = ("t_embedder.", "pooled_embedder.")
    tensors = {name.removeprefix("model.net."): value for name, value in source.items()}
    names = sorted(name for name in tensors if not name.startswith(unused))
    weight_map = {}
    for i in range(num_files):
        file = f"model-{i + 1:05}-of-{num_files:05}.safetensors"
        part = {prefix + name: tensors[name] for name in names[i::num_files]}
        weight_map |= dict.fromkeys(part, file)
        save_file(part, folder / file, {"format": "pt"})
    if num_files > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    values = {name: value for name, value in (SETTINGS | settings).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("prefix", "num_files"), [("", 1), ("net.", 3), ("model.net.", 1), ("_orig_mod.net.", 1)]
)
def test_the_same_tensors(prefix: str, num_files: int, tmp_path: Path) -> None:
    folder = write(tmp_path / "x", prefix, num_files)
    for path in (folder, tmp_path):
        checkpoint = load_checkpoint(path)
        assert checkpoint.report.form == "auto-model" and checkpoint.config == CONFIG
        for name, value in load_checkpoint(hub_folder()).tensors.items():
            assert np.array_equal(checkpoint.tensors[name], value), name


class Settings(PretrainedConfig):
    model_type = "minit2i"


class Model(PreTrainedModel):
    """The official parameters inside a transformers model, as code of a folder would hold them."""

    config_class = Settings

    def __init__(self, config: Settings, tensors: dict[str, np.ndarray]) -> None:
        super().__init__(config)
        self.net = torch.nn.Module()
        for name, value in tensors.items():
            *path, leaf = name.split(".")
            module = self.net
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, torch.nn.Parameter(torch.from_numpy(value)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_transformers_itself_saves(dtype: torch.dtype, tmp_path: Path) -> None:
    """Its own config.json, shards and index."""
    source = load_checkpoint(hub_folder())
    sizes = {key: SETTINGS[key] for key in ("auto_map", "image_size", "prompt_length")}
    model = Model(Settings(**sizes), source.tensors).to(dtype)
    model.save_pretrained(tmp_path / "x", max_shard_size="200KB")
    assert len(list((tmp_path / "x").glob("model-*-of-*.safetensors"))) > 1
    checkpoint = load_checkpoint(tmp_path / "x")
    assert checkpoint.report.form == "auto-model" and checkpoint.config == CONFIG
    for name, value in source.tensors.items():
        expected = torch.from_numpy(value).to(dtype).float().numpy()
        assert np.array_equal(checkpoint.tensors[name], expected), name


def test_sizes_that_are_in_no_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", image_size=None, prompt_length=None)
    with pytest.raises(UsageError, match="pass image_size and prompt_length"):
        load_checkpoint(folder)
    sizes = {"image_size": 32, "prompt_length": 12}
    assert load_checkpoint(folder, **sizes).config == CONFIG


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hidden_size": 96}, "hidden_size is 96, but the weights are those of a network with 64"),
        ({"prediction": "v"}, "prediction is 'v'"),
        ({"compat_checkpoint_arch": True}, "compat_checkpoint_arch is True"),
    ],
)
def test_what_the_weights_contradict(settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(write(tmp_path / "x", **settings))
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", num_files=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names the shard 'model-00002"):
        load_checkpoint(folder)
