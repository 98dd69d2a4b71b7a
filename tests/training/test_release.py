"""What is shipped of a checkpoint: its averaged weights, rounded, and where they came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.model import MMJiT
from minit2i_deploy.training.checkpoint import TrainingState, save_checkpoint
from minit2i_deploy.training.initial_weights import initialize_weights
from minit2i_deploy.training.release import release_checkpoint
from tests.helpers.training_runs import TINY_MODEL, tiny_recipe


def checkpoint(folder: Path, largest: float = 1.0) -> Path:
    net = MMJiT(TINY_MODEL)
    initialize_weights(net, 0)
    model = net.canonical_parameters()
    ema = {name: value.detach() * 1.5 for name, value in model.items()}
    ema["final_layer.linear.bias"][0] = largest
    state = TrainingState(step=7, model=model, ema=ema, optimizer={"parts": []})
    return save_checkpoint(
        folder, tiny_recipe(text_encoder="/somewhere/t5", start_from="/somewhere/base"), state
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_average_is_shipped_in_the_given_type(tmp_path: Path, precision: str) -> None:
    path = checkpoint(tmp_path)
    target = release_checkpoint(
        path, tmp_path / "shipped", precision=precision, notes={"score": 0.5}
    )
    assert sorted(file.name for file in target.iterdir()) == ["checkpoint.json", "ema.safetensors"]
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    actual, whole = load_checkpoint(target), load_checkpoint(path)
    for name, value in whole.tensors.items():
        expected = torch.from_numpy(value).to(dtype).to(torch.float32).numpy()
        assert np.array_equal(actual.tensors[name], expected), name
    header = json.loads((target / "checkpoint.json").read_text("utf-8"))
    assert (header["score"], header["step"]) == (0.5, 7)
    assert "somewhere" not in json.dumps(header) and header["recipe"]["seed"] == 0
    assert (header["recipe"]["text_encoder"], header["recipe"]["start_from"]) == ("t5", "base")


def test_weights_beyond_the_type_are_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, largest=1e5)
    with pytest.raises(TrainingError, match=r"final_layer\.linear\.bias does not fit fp16"):
        release_checkpoint(path, tmp_path / "shipped", precision="fp16")
    assert not (tmp_path / "shipped").exists()
    assert release_checkpoint(path, tmp_path / "shipped", precision="bf16")


def test_an_unknown_type_and_a_taken_place_are_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    with pytest.raises(UsageError, match="one of fp32, fp16, bf16"):
        release_checkpoint(path, tmp_path / "shipped", precision="int8")
    with pytest.raises(UsageError, match="not empty"):
        release_checkpoint(path, path)
    release_checkpoint(path, tmp_path / "shipped", precision="fp16")
    release_checkpoint(path, tmp_path / "shipped", precision="fp32", overwrite=True)
    assert load_checkpoint(tmp_path / "shipped").report.dtypes.keys() == {"float32"}
