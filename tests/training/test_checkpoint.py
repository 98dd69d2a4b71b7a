"""Training checkpoints: whole or not there, readable as a model, refused where they do not fit."""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import minit2i_deploy
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.model import MMJiT, build_network
from minit2i_deploy.training import checkpoint as module
from minit2i_deploy.training.checkpoint import (
    TrainingState,
    list_checkpoints,
    load_checkpoint_state,
    remove_partial_checkpoints,
    save_checkpoint,
)
from minit2i_deploy.training.initial_weights import initialize_weights
from tests.helpers.training_runs import TINY_MODEL, state_of, tiny_recipe

FILES = ["checkpoint.json", "ema.safetensors", "model.safetensors", "optimizer.pt"]


def a_state(step: int = 3, seed: int = 0) -> TrainingState:
    net = MMJiT(TINY_MODEL)
    initialize_weights(net, seed)
    model = net.canonical_parameters()
    return TrainingState(
        step=step,
        model=model,
        ema={name: value.detach() + 1 for name, value in model.items()},
        optimizer={"parts": [{"state": {0: {"step": torch.tensor(float(step))}}}]},
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    state = a_state()
    path = save_checkpoint(tmp_path / "run", tiny_recipe(), state)
    assert path.name == "step-000003"
    assert sorted(file.name for file in path.iterdir()) == FILES
    actual = load_checkpoint_state(path, tiny_recipe())
    assert actual.step == 3 and actual.model.keys() == state.model.keys() == actual.ema.keys()
    for name, value in state.model.items():
        assert torch.equal(actual.model[name], value), name
        assert torch.equal(actual.ema[name], state.ema[name]), name
    assert actual.optimizer == state.optimizer


def test_a_checkpoint_is_a_model_with_average_and_online_weights(tmp_path: Path) -> None:
    state = a_state()
    path = save_checkpoint(tmp_path, tiny_recipe(), state)
    deployed = minit2i_deploy.load_checkpoint(path)
    online = minit2i_deploy.load_checkpoint(path, ema=False)
    assert deployed.config == online.config == TINY_MODEL
    assert (deployed.report.form, deployed.report.step) == ("minit2i-training", 3)
    for name, value in state.model.items():
        assert np.array_equal(online.tensors[name], value.detach().numpy()), name
        assert np.array_equal(deployed.tensors[name], state.ema[name].numpy()), name
    assert build_network(deployed).config == TINY_MODEL


def test_the_header_tells_recipe_and_version(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, tiny_recipe(seed=5), a_state())
    header = json.loads((path / "checkpoint.json").read_text("utf-8"))
    assert (header["format"], header["version"], header["step"]) == ("minit2i-training", 1, 3)
    assert header["recipe"]["seed"] == 5 and header["config"] == TINY_MODEL.to_dict()


def test_the_last_ones_are_kept_in_the_order_of_steps(tmp_path: Path) -> None:
    recipe = tiny_recipe(keep_last=2)
    for step in (999_998, 999_999, 1_000_000):
        save_checkpoint(tmp_path, recipe, a_state(step))
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-999999", "step-1000000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_every_so_many_steps_one_is_retained(tmp_path: Path) -> None:
    recipe = tiny_recipe(keep_last=1, keep_every=4)
    for step in range(2, 11, 2):
        save_checkpoint(tmp_path, recipe, a_state(step))
    names = [path.name for path in list_checkpoints(tmp_path)]
    assert names == ["step-000004", "step-000008", "step-000010"]


@pytest.mark.parametrize("room", [0, 30_000, 300_000])
def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path: Path, room: int) -> None:
    """The kernel refuses to let any file grow beyond ``room`` bytes, as a full disk does."""
    before = save_checkpoint(tmp_path, tiny_recipe(keep_last=1), a_state(1))
    size = {path.name: path.stat().st_size for path in before.iterdir()}
    assert size["model.safetensors"] > 30_000  # or nothing would fail
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = min(room, size["model.safetensors"] - 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        with pytest.raises(TrainingError, match=r"cannot be written .* before it is untouched"):
            save_checkpoint(tmp_path, tiny_recipe(keep_last=1), a_state(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list_checkpoints(tmp_path) == [before] == list(tmp_path.iterdir())
    assert load_checkpoint_state(before, tiny_recipe()).step == 1
    save_checkpoint(tmp_path, tiny_recipe(keep_last=1), a_state(2))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000002"]


def test_the_state_of_the_data_comes_back(tmp_path: Path) -> None:
    state = dataclasses.replace(a_state(), data={"samples_seen": 12, "bad": []})
    path = save_checkpoint(tmp_path, tiny_recipe(), state)
    assert load_checkpoint_state(path, tiny_recipe()).data == {"samples_seen": 12, "bad": []}


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", fail)
    with pytest.raises(TrainingError, match=r"No space left .*before it is untouched"):
        save_checkpoint(tmp_path, tiny_recipe(), a_state())
    assert list(tmp_path.iterdir()) == []


def test_folders_without_a_header_are_no_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "step-000009").mkdir()
    (tmp_path / ".step-000008.partial-1").mkdir()
    path = save_checkpoint(tmp_path, tiny_recipe(), a_state())
    assert list_checkpoints(tmp_path) == [path]
    remove_partial_checkpoints(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000009"]


def another_version(path: Path) -> None:
    header = json.loads((path / "checkpoint.json").read_text("utf-8"))
    (path / "checkpoint.json").write_text(json.dumps(header | {"version": 2}), "utf-8")


def no_json(path: Path) -> None:
    (path / "checkpoint.json").write_text("{", "utf-8")


def a_list(path: Path) -> None:
    (path / "checkpoint.json").write_text("[]", "utf-8")


def no_average(path: Path) -> None:
    (path / "ema.safetensors").unlink()


def cut_weights(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def cut_optimizer(path: Path) -> None:
    file = path / "optimizer.pt"
    file.write_bytes(file.read_bytes()[:100])


def code_in_the_optimizer(path: Path) -> None:
    torch.save({"parts": [shutil.rmtree]}, path / "optimizer.pt")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (another_version, "version 2, expected 'minit2i-training' version 1"),
        (no_json, "cannot be read"),
        (a_list, "cannot be read"),
        (no_average, r"cannot be read .*ema\.safetensors"),
        (cut_weights, "cannot be read"),
        (cut_optimizer, "cannot be read"),
        (code_in_the_optimizer, "cannot be read"),
    ],
)
def test_corrupt_checkpoints_are_refused(
    tmp_path: Path, harm: Callable[[Path], None], words: str
) -> None:
    path = save_checkpoint(tmp_path, tiny_recipe(), a_state())
    assert state_of(path)
    harm(path)
    with pytest.raises(TrainingError, match=words) as caught:
        load_checkpoint_state(path, tiny_recipe())
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, tiny_recipe(), a_state())
    other = ModelConfig.from_dict(TINY_MODEL.to_dict() | {"depth_double": 3})
    with pytest.raises(TrainingError, match="depth_double 2, the recipe has 3"):
        load_checkpoint_state(path, tiny_recipe(model=other))


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(UsageError, match="choose a folder"):
        save_checkpoint(tmp_path / "file" / "run", tiny_recipe(), a_state())
