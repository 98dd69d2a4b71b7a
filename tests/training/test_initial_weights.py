"""Runs that begin with another model's weights: a second stage, or a refusal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import minit2i_deploy
from minit2i_deploy.errors import CheckpointError, TrainingError
from minit2i_deploy.training.optim.trainable_parameters import freeze_unused_parameters
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import TINY_MODEL, step_data, tiny_recipe, tiny_teacher


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("pretrained"))


def test_a_second_stage_begins_with_the_averaged_weights(pretrained: Path, tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(start_from=str(pretrained)), tmp_path)
    expected = minit2i_deploy.load_checkpoint(pretrained).tensors
    assert trainer.parameters.keys() == expected.keys() and trainer.step == 0
    for name, value in trainer.parameters.items():
        assert np.array_equal(value.detach().numpy(), expected[name]), name
        assert torch.equal(trainer.ema.tensors[name], value), name


def test_a_second_stage_goes_on_from_its_own_checkpoints(pretrained: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(start_from=str(pretrained))
    first = Trainer(recipe, tmp_path)
    first.train_step(step_data(recipe, 0))
    first.save()
    second = Trainer(recipe, tmp_path)
    assert second.step == 1
    for name, value in first.parameters.items():
        assert torch.equal(second.parameters[name], value), name


def test_another_architecture_is_refused(pretrained: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(TINY_MODEL, depth_double=3)
    with pytest.raises(TrainingError, match=r"model\.depth_double is 2, the recipe has 3"):
        Trainer(tiny_recipe(start_from=str(pretrained), model=model), tmp_path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        Trainer(tiny_recipe(start_from=str(tmp_path / "none")), tmp_path / "run")


def test_exactly_what_reaches_no_output_is_frozen(tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(), tmp_path)
    with torch.no_grad():
        # Zero in a fresh network, which would stop every gradient behind it.
        trainer.parameters["final_layer.linear.weight"].fill_(0.1)
    for value in trainer.parameters.values():
        value.requires_grad_(True)
    batch = next(iter(trainer._micro_batches(step_data(trainer.recipe, 0))))
    trainer.objective.loss(trainer.net, batch, 0)[0].backward()
    unread = {name for name, value in trainer.parameters.items() if value.grad is None}
    freeze_unused_parameters(trainer.net)
    frozen = {name for name, value in trainer.parameters.items() if not value.requires_grad}
    assert unread == frozen and len(frozen) == 6
