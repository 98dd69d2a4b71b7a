"""Runs that begin with another model's weights: a second stage, or a refusal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import minit2i_deploy
from minit2i_deploy.errors import CheckpointError, TrainingError, UsageError
from minit2i_deploy.training.initial_weights import changed_alike, deepened
from minit2i_deploy.training.optim.trainable_parameters import freeze_unused_parameters
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import (
    TINY_MODEL,
    step_data,
    tiny_recipe,
    tiny_student_recipe,
    tiny_teacher,
)


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


@pytest.mark.parametrize("depth", [3, 5])
def test_more_blocks_compute_the_same_at_first_and_all_learn(
    pretrained: Path, tmp_path: Path, depth: int
) -> None:
    model = dataclasses.replace(TINY_MODEL, depth_double=depth)
    recipe = tiny_recipe(start_from=str(pretrained), model=model)
    deep = Trainer(recipe, tmp_path / "deep")
    shallow = Trainer(tiny_recipe(start_from=str(pretrained)), tmp_path / "shallow")
    batch = next(iter(deep._micro_batches(step_data(recipe, 0))))
    deep_loss, shallow_loss = (run.objective.loss(run.net, batch, 0)[0] for run in (deep, shallow))
    assert torch.equal(deep_loss, shallow_loss)
    before = {name: value.detach().clone() for name, value in deep.parameters.items()}
    for step in range(3):
        deep.train_step(step_data(recipe, step))
    stuck = {name for name, value in deep.parameters.items() if torch.equal(value, before[name])}
    assert stuck == {name for name, value in deep.parameters.items() if not value.requires_grad}


def test_new_blocks_lie_between_the_old_ones() -> None:
    weights = {
        f"double_blocks.{i}.img_mlp.w{k}.weight": np.full(1, 10 * i + k)
        for i in range(4)
        for k in (1, 2)
    } | {"mask_token": np.full(1, 7)}
    result = deepened(weights, 4, 6)
    inner, outer = (
        [int(result[f"double_blocks.{i}.img_mlp.w{k}.weight"][0]) for i in range(6)] for k in (1, 2)
    )
    assert inner == [1, 1, 11, 21, 21, 31] and outer == [2, 0, 12, 22, 0, 32]
    assert result["mask_token"] == 7
    # Nothing reads the text stream behind the last block, so it is the last one again.
    for new_depth in (5, 9, 12):
        result = deepened(weights, 4, new_depth)
        last = [i for i in range(new_depth) if result[f"double_blocks.{i}.img_mlp.w1.weight"] == 31]
        assert last == [new_depth - 1]


def test_what_training_changed_is_changed_in_a_deeper_network() -> None:
    def network(depth: int, start: float) -> dict[str, np.ndarray]:
        blocks = {f"double_blocks.{i}.txt_qkv.weight": np.full(2, start + i) for i in range(depth)}
        return blocks | {"mask_token": np.full(2, start - 1)}

    before, later = network(4, 10.0), network(5, 100.0)
    after = {name: value + 2**i for i, (name, value) in enumerate(before.items())}
    after |= {"omega_tokens": np.full(2, 3.0)}
    result = changed_alike(later, before, after, 4, 5)
    # ``deepened`` puts block 2 in between, and the four changes are those of the others.
    changes = [result[f"double_blocks.{i}.txt_qkv.weight"][0] - (100.0 + i) for i in range(5)]
    assert changes == [1, 2, 0, 4, 8]
    assert result["mask_token"][0] == 99 + 16 and result["omega_tokens"][0] == 3
    assert later["mask_token"][0] == 99 and result.keys() == later.keys() | {"omega_tokens"}
    # Of the same base it is the student itself.
    same = changed_alike(before, before, after, 4, 4)
    assert all(np.array_equal(same[name], value) for name, value in after.items())


def test_a_student_begins_as_its_teacher_changed_as_a_former_one(
    pretrained: Path, tmp_path: Path
) -> None:
    model = dataclasses.replace(TINY_MODEL, depth_double=3)
    teacher = Trainer(tiny_recipe(start_from=str(pretrained), model=model), tmp_path / "teacher")
    for step in range(2):
        teacher.train_step(step_data(teacher.recipe, step))
    teacher.save()
    student = Trainer(tiny_student_recipe(pretrained), tmp_path / "student")
    student.train_step(step_data(student.recipe, 0))
    student.save()
    folders = {"teacher": tmp_path / "teacher", "student": tmp_path / "student"}
    distill = DistillRecipe(teacher=str(folders["teacher"]), former_teacher=str(pretrained))
    changes = {"model": dataclasses.replace(student.recipe.model, depth_double=3)}
    recipe = tiny_student_recipe(
        pretrained, distill=distill, start_from=str(folders["student"]), **changes
    )
    result = Trainer(recipe, tmp_path / "run")
    load = minit2i_deploy.load_checkpoint
    expected = changed_alike(
        load(folders["teacher"]).tensors,
        load(pretrained).tensors,
        load(folders["student"]).tensors,
        2,
        3,
    )
    assert result.parameters.keys() == expected.keys()
    for name, value in result.parameters.items():
        assert np.array_equal(value.detach().numpy(), expected[name]), name


def test_a_former_teacher_of_another_network_is_refused(pretrained: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(TINY_MODEL, depth_double=3)
    deep = Trainer(tiny_recipe(start_from=str(pretrained), model=model), tmp_path / "deep")
    deep.save()
    student = Trainer(tiny_student_recipe(pretrained), tmp_path / "student")
    student.save()

    def begin(teacher: Path, former: Path, start: Path) -> None:
        distill = DistillRecipe(teacher=str(teacher), former_teacher=str(former))
        Trainer(
            tiny_student_recipe(pretrained, distill=distill, start_from=str(start)),
            tmp_path / "run",
        )

    with pytest.raises(TrainingError, match=r"depth_double is 3, the recipe has 2"):
        begin(pretrained, tmp_path / "deep", tmp_path / "student")
    with pytest.raises(TrainingError, match=r"model\.student is None"):
        begin(pretrained, pretrained, pretrained)
    with pytest.raises(UsageError, match=r"former_teacher is set and start_from is not"):
        tiny_student_recipe(
            pretrained, distill=DistillRecipe(teacher=str(pretrained), former_teacher="there")
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_double": 1}, r"model\.depth_double is 2, the recipe has 1"),
        ({"prompt_length": 9}, r"model\.prompt_length is .*, the recipe has 9"),
    ],
)
def test_another_architecture_is_refused(
    pretrained: Path, tmp_path: Path, change: dict[str, int], message: str
) -> None:
    model = dataclasses.replace(TINY_MODEL, **change)
    with pytest.raises(TrainingError, match=message):
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
