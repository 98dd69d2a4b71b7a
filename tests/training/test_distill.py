"""Distillation runs: the student's first weights, exact resume, and the way to a picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import minit2i_deploy
from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.export import ExportOptions, export_bundle
from minit2i_deploy.generate import generate
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.training import distill, train
from minit2i_deploy.training.checkpoint import list_checkpoints
from minit2i_deploy.training.data import to_network_range
from minit2i_deploy.training.objectives import mean_flow as distillation
from minit2i_deploy.training.objectives.mean_flow import MeanFlow
from minit2i_deploy.training.objectives.mean_flow_loss import (
    StepConditions,
    mean_velocity,
    velocity_derivative,
)
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.release import release_checkpoint
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import (
    TINY_MODEL,
    assert_same_state,
    log_of,
    state_of,
    step_data,
    tiny_recipe,
    tiny_student_recipe,
    tiny_teacher,
    wide_batch,
)

pytestmark = pytest.mark.filterwarnings(
    # Python 3.12 warns of any fork beside other threads; the data worker draws with numpy alone.
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """A run of three steps; the folder holds its one checkpoint."""
    folder = tmp_path_factory.mktemp("student")
    Trainer(short_recipe(teacher), folder).run()
    return folder


def short_recipe(teacher: Path) -> Recipe:
    return tiny_student_recipe(teacher, steps=3)


def a_batch(recipe: Recipe) -> Batch:
    generator = torch.Generator().manual_seed(4)
    images = step_data(recipe, 0).images
    return Batch(
        images=to_network_range(images),
        context=torch.randn(len(images), 20, 128, generator=generator),
        mask=torch.ones(len(images), 20),
        captions=[""] * len(images),
        positions=range(len(images)),
    )


def test_a_student_begins_with_the_averaged_weights_of_its_teacher(
    teacher: Path, tmp_path: Path
) -> None:
    trainer = Trainer(short_recipe(teacher), tmp_path)
    expected = minit2i_deploy.load_checkpoint(teacher).tensors
    for name, value in expected.items():
        assert np.array_equal(trainer.parameters[name].detach().numpy(), value), name
    assert len(trainer.parameters) > len(expected)


def test_training_moves_the_student_alone(teacher: Path, student: Path) -> None:
    before = minit2i_deploy.load_checkpoint(teacher).tensors
    after = {
        name.removeprefix("model."): value
        for name, value in state_of(student / "step-000003").items()
        if name.startswith("model.")
    }
    still = {name for name, value in before.items() if np.array_equal(value, after[name].numpy())}
    assert all(".1.txt_" in name for name in still) and len(still) == 6
    # What the student is told reaches its output: every embedder learns.
    fresh = Trainer(short_recipe(teacher), student.parent / "none").parameters
    for name in after.keys() - before.keys():
        assert not torch.equal(after[name], fresh[name].detach()), name


def test_the_rate_is_excluded_only_where_it_has_no_weight(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_student_recipe(teacher, batch=6)
    batch = a_batch(recipe)
    objective = MeanFlow(recipe, torch.device("cpu"))
    net = Trainer(recipe, teacher.parent / "none").net
    recorded: list[StepConditions] = []

    def rate(*arguments: Any) -> torch.Tensor:
        recorded.append(arguments[-2])
        return velocity_derivative(*arguments)

    monkeypatch.setattr(distillation, "velocity_derivative", rate)
    loss, reported = objective.loss(net, batch, 5)
    assert len(recorded) == 1 and (recorded[0].t > recorded[0].r).all() and len(recorded[0].t) == 3
    assert loss.requires_grad and not reported.requires_grad
    # With every picture plain there is no derivative at all.
    plain = dataclasses.replace(recipe.distill, plain_share=1.0)  # type: ignore[type-var]
    objective = MeanFlow(dataclasses.replace(recipe, distill=plain), torch.device("cpu"))
    objective.loss(net, batch, 5)
    assert len(recorded) == 1


def test_the_floor_is_the_recipes(teacher: Path) -> None:
    recipe = tiny_student_recipe(teacher, a_min=0.05)
    net = Trainer(recipe, teacher.parent / "none").net

    def reported(a_min: float) -> float:
        objective = MeanFlow(dataclasses.replace(recipe, a_min=a_min), torch.device("cpu"))
        return objective.loss(net, a_batch(recipe), 0)[1].item()

    # Every level is below 1, so a floor of 1 takes all of them for 1.
    assert reported(1.0) < reported(0.05)


def test_draws_are_a_function_of_seed_and_step(teacher: Path) -> None:
    recipe = tiny_student_recipe(teacher)
    net = Trainer(recipe, teacher.parent / "none").net

    def reported(step: int, **changes: Any) -> float:
        objective = MeanFlow(dataclasses.replace(recipe, **changes), torch.device("cpu"))
        return objective.loss(net, a_batch(recipe), step)[1].item()

    assert reported(3) == reported(3)
    assert len({reported(3), reported(4), reported(3, seed=1)}) == 3


def test_the_derivative_is_taken_along_the_velocity_that_the_recipe_names(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directions: list[torch.Tensor] = []
    plain = velocity_derivative

    def look(student: Any, z: Any, direction: torch.Tensor, *rest: Any) -> torch.Tensor:
        directions.append(direction)
        return plain(student, z, direction, *rest)

    monkeypatch.setattr(distillation, "velocity_derivative", look)
    recipe = tiny_student_recipe(teacher)
    assert recipe.distill is not None
    net = Trainer(recipe, teacher.parent / "none").net
    for tangent in ("teacher", "student"):
        distill = dataclasses.replace(recipe.distill, tangent=tangent, plain_share=0.0)
        objective = MeanFlow(dataclasses.replace(recipe, distill=distill), torch.device("cpu"))
        objective.loss(net, a_batch(recipe), 0)
    teachers, own = directions
    assert not own.requires_grad and not torch.equal(own, teachers)
    # A student that begins as its teacher has the teacher's velocity but for its fresh condition
    # tokens and for guidance, so the two are near; measured 0.99.
    assert torch.cosine_similarity(own.flatten(), teachers.flatten(), dim=0) > 0.9


def test_a_run_leaves_a_student_and_says_whose(teacher: Path, student: Path) -> None:
    assert [path.name for path in list_checkpoints(student)] == ["step-000003"]
    loss, score = log_of(student)
    assert np.isfinite(loss["loss"]) and 0 <= score["score"] <= 1
    header = json.loads((student / "step-000003" / "checkpoint.json").read_text("utf-8"))
    assert header["teacher_sha256"] == minit2i_deploy.load_checkpoint(teacher).report.sha256
    assert header["config"]["student"]["num_time_tokens"] == 4
    report = minit2i_deploy.load_checkpoint(student / "step-000003").report
    assert report.weights == "EMA 0.01"


def test_another_teacher_is_refused_where_a_run_continues(student: Path, tmp_path: Path) -> None:
    other = tiny_teacher(tmp_path, seed=9)
    with pytest.raises(TrainingError, match="distilled from another teacher"):
        Trainer(tiny_student_recipe(other), student)


def test_a_teacher_of_another_shape_is_refused(teacher: Path, tmp_path: Path) -> None:
    model = tiny_student_recipe(teacher).model
    recipe = tiny_student_recipe(teacher, model=dataclasses.replace(model, pca_channels=16))
    with pytest.raises(TrainingError, match=r"model\.pca_channels is 8, the recipe has 16"):
        Trainer(recipe, tmp_path)


def test_a_student_is_no_teacher(student: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"is another network \(model\.student is "):
        Trainer(tiny_student_recipe(student / "step-000003"), tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_learns_in_either_precision(
    precision: str, teacher: Path, tmp_path: Path
) -> None:
    # Without guidance, whose random targets would drown what is learned.
    distill = DistillRecipe(teacher=str(teacher), omega=(1.0, 1.0))
    recipe = tiny_student_recipe(
        teacher, distill=distill, steps=20, batch=8, precision=precision, lr=1e-3
    )
    trainer = Trainer(recipe, tmp_path)

    def reported() -> float:
        # One batch and one draw: from draw to draw the loss differs by a factor of ten.
        wide = dataclasses.replace(recipe, batch=64)
        batch = wide_batch(trainer, wide)
        return MeanFlow(wide, trainer.device).loss(trainer.net, batch, 0)[1].item()

    before = reported()
    for step in range(20):
        trainer.train_step(step_data(recipe, step))
    # Measured 0.30 in either precision.
    assert reported() < 0.5 * before
    assert all(value.dtype == torch.float32 for value in trainer.parameters.values())


def test_a_student_learns_the_average_of_its_teachers_velocity() -> None:
    """On a line field v = c z the average over [r, t] is known; du/dt must give it at once."""
    t, r = torch.tensor([0.8]), torch.tensor([0.3])
    conditions = StepConditions(t=t, r=r, omega=t + 1, t_min=r, t_max=t)

    def student(x: torch.Tensor, context: Any, mask: Any, *, h: torch.Tensor, **_: Any) -> Any:
        # For dz/dt = 2 z: z_r = z exp(-2 h) and u = z (1 - exp(-2 h)) / h, as a picture z - t u.
        return x - 0.8 * x * ((1 - torch.exp(-2 * h)) / h)[:, None, None, None]

    z = torch.full((1, 1, 1, 1), 3.0)
    v = 2 * z
    u = mean_velocity(student, z, z, z, conditions)
    # The picture above holds t at 0.8, while u = (z - x0) / t moves with it by -u / t.
    rate = velocity_derivative(student, z, v, z, z, conditions) + u / t
    assert (u + (t - r) * rate).item() == pytest.approx(v.item(), rel=1e-5)


def test_from_teacher_to_image(student: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    bundle = export_bundle(
        student / "step-000003",
        tmp_path / "bundle",
        ExportOptions(text_encoder=recipe.text_encoder_folder),
    )
    pictures = []
    for name in ("onnxruntime", "torch"):
        with open_runtime(bundle, name) as runtime:
            result = generate(bundle, runtime, "a red circle", seed=2)
            assert result.table == "mean-flow-4" and result.x.shape == (1, 3, 16, 16)
            pictures.append(result.x)
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-4


def test_a_shipped_student_names_no_folder(student: Path, teacher: Path, tmp_path: Path) -> None:
    path = release_checkpoint(student / "step-000003", tmp_path / "model")
    text = (path / "checkpoint.json").read_text("utf-8")
    assert str(teacher.parent) not in text
    assert json.loads(text)["recipe"]["distill"]["teacher"] == teacher.name
    assert minit2i_deploy.load_checkpoint(path).config.student is not None


def written(recipe: Recipe, path: Path) -> Path:
    path.write_text(yaml.safe_dump(recipe.to_dict()), encoding="utf-8")
    return path


def test_each_command_takes_its_own_recipes(teacher: Path, tmp_path: Path) -> None:
    base = written(tiny_recipe(steps=1), tmp_path / "base.yaml")
    few = written(tiny_student_recipe(teacher, steps=1), tmp_path / "few.yaml")
    with pytest.raises(UsageError, match=r"few\.yaml: has distill.*run minit2i distill"):
        train(few, tmp_path / "run")
    with pytest.raises(UsageError, match=r"base\.yaml: has no distill"):
        distill(base, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert distill(few, tmp_path / "run") == tmp_path / "run" / "step-000001"


def test_a_missing_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(minit2i_deploy.errors.CheckpointError, match="does not exist"):
        Trainer(tiny_student_recipe(tmp_path / "none"), tmp_path / "run")


def test_a_stopped_and_resumed_run_is_the_same_run(
    teacher: Path, student: Path, tmp_path: Path
) -> None:
    recipe = short_recipe(teacher)
    first = Trainer(recipe, tmp_path)
    first.train_step(step_data(recipe, 0))
    first.save()
    second = Trainer(recipe, tmp_path)
    assert second.step == 1 and TINY_MODEL.student is None
    for step in (1, 2):
        second.train_step(step_data(recipe, step))
    second.save()
    assert_same_state(tmp_path / "step-000003", student / "step-000003")
