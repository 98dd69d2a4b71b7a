"""Distillation on the teacher's own trajectories: its states, the loss, and runs."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model import MMJiT, Step, build_network
from minit2i_deploy.model.loop import run_table
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.training.data import to_network_range
from minit2i_deploy.training.distributed import memory
from minit2i_deploy.training.objectives import trajectory_matching
from minit2i_deploy.training.objectives.flow_matching_loss import NOISE_SCALE
from minit2i_deploy.training.objectives.mean_flow_loss import GuidanceConditions, StepConditions
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.random_draws import data_step, draw_noise, steps_back
from minit2i_deploy.training.objectives.trajectory_loss import guided_trajectory, trajectory_loss
from minit2i_deploy.training.objectives.trajectory_matching import TrajectoryMatching
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import (
    TINY_MODEL,
    assert_resumes,
    step_data,
    tiny_student_recipe,
    tiny_teacher,
    wide_batch,
)

pytestmark = pytest.mark.filterwarnings(
    # Python 3.12 warns of any fork beside other threads; the data worker draws with numpy alone.
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)

# float32 against the same sums in another order; measured 1.9e-6 of values up to 6.
MAX_ABS_ERROR = 2e-5
STEPS, ROWS = 2, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> MMJiT:
    return build_network(load_checkpoint(folder))


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {"teacher": str(folder), "teacher_rows": ROWS, "omega": (1.5, 4.0)}
    distill = DistillRecipe(**values | changes.pop("distill", {}))
    return tiny_student_recipe(folder, distill=distill, sample_steps=STEPS, **changes)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guidance(omega: list[float], t_min: float = 0.0, t_max: float = 1.0) -> GuidanceConditions:
    scale = torch.tensor(omega)
    low, high = torch.full_like(scale, t_min), torch.full_like(scale, t_max)
    return GuidanceConditions(omega=scale, t_min=low, t_max=high)


def start(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.ones(batch, TINY_MODEL.prompt_length)
    mask[:, 5:] = 0
    return 2 * normal(batch, 3, 16, 16), normal(batch, TINY_MODEL.prompt_length, 128), mask


@pytest.mark.parametrize("solver", ["euler", "ab2"])
@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.0, 0.8), (0.2, 0.8)])
def test_states_are_those_of_the_loop_that_paints(
    teacher: MMJiT, solver: str, interval: tuple[float, float]
) -> None:
    noise, context, mask = start(2)
    table = solver_table(solver, steps=10, a_min=0.1)
    conditions = guidance([2.5, 2.5], t_min=1 - interval[1], t_max=1 - interval[0])
    actual, _ = guided_trajectory(teacher, noise, context, mask, conditions, table)
    with torch.no_grad():
        tokens = torch.stack([teacher.text_adapter(context, m) for m in (mask, 0 * mask)])
    guided = solver_table(solver, steps=10, a_min=0.1, interval=interval)
    loop = run_table(Step(teacher.denoiser), noise, tokens, guided, 2.5)
    expected = torch.stack([noise, *(x for x, _ in loop)])
    assert actual.shape == (11, 2, 3, 16, 16) and not actual.requires_grad
    assert (actual - expected).abs().max() <= MAX_ABS_ERROR


def test_every_image_has_its_own_guidance(teacher: MMJiT) -> None:
    noise, context, mask = start(3)
    table = solver_table("ab2", steps=4, a_min=0.25)
    conditions = guidance([1.0, 2.0, 5.0])
    together, _ = guided_trajectory(teacher, noise, context, mask, conditions, table)
    for i in range(3):
        one = slice(i, i + 1)
        alone, _ = guided_trajectory(
            teacher, noise[one], context[one], mask[one], conditions.select(one), table
        )
        assert (together[:, one] - alone).abs().max() <= MAX_ABS_ERROR
    assert (together[-1, 1] - together[-1, 2]).abs().max() > 100 * MAX_ABS_ERROR


class Perfect:
    """A student that has learned given states by heart, and says what it was conditions."""

    def __init__(self, states: Tensor, off: float = 0.0) -> None:
        self.states, self.off = states, off
        self.conditions: dict[str, Tensor] = {}

    def __call__(self, z: Tensor, context: Tensor, mask: Tensor, **conditions: Tensor) -> Tensor:
        self.conditions = conditions | {"context": context, "mask": mask}
        n = len(self.states) - 1
        actual = []
        for picture in z:
            index, place = divmod(
                int((self.states[:-1].flatten(0, 1) == picture).flatten(1).all(1).nonzero()),
                self.states.shape[1],
            )
            level = 1 - index / n
            u = (picture - self.states[index + 1, place]) * n + self.off
            actual.append(picture - level * u)
        return torch.stack(actual)


def test_the_loss_is_the_mean_velocitys() -> None:
    states, (_, context, mask) = normal(4, 2, 3, 16, 16), start(2)
    conditions = guidance([2.0, 3.0], 0.1, 0.9)
    exact = Perfect(states)
    # Measured 2e-13.
    assert trajectory_loss(exact, states, context, mask, conditions, 0.05).item() < 1e-10
    off = trajectory_loss(Perfect(states, off=0.5), states, context, mask, conditions, 0.05)
    assert off.item() == pytest.approx(0.25, rel=1e-5)
    # Three steps of two pictures, step by step.
    assert exact.conditions["h"].tolist() == pytest.approx([1 / 3] * 6)
    assert exact.conditions["omega"].tolist() == [2.0, 3.0] * 3
    assert exact.conditions["t_min"].tolist() == pytest.approx([0.1] * 6)
    assert exact.conditions["t_max"].tolist() == pytest.approx([0.9] * 6)
    assert torch.equal(exact.conditions["context"], torch.cat([context] * 3))
    assert torch.equal(exact.conditions["mask"], torch.cat([mask] * 3))


def test_halved_steps_are_those_of_fewer_states() -> None:
    """The loss of all lengths is the mean of each length's own, by its number of steps."""
    states, (_, context, mask) = normal(5, 2, 3, 16, 16), start(2)
    conditions = guidance([2.0, 3.0], 0.1, 0.9)
    lengths: list[float] = []

    def student(z: Tensor, *rest: Tensor, **given: Tensor) -> Tensor:
        lengths.extend(given["h"].tolist())
        return 0.3 * z * (1 + given["h"]).reshape(-1, 1, 1, 1)

    def loss(some: Tensor, halvings: int = 0) -> float:
        return trajectory_loss(
            student, some, context, mask, conditions, 0.05, halvings=halvings
        ).item()

    parts = [loss(states[::stride]) for stride in (1, 2, 4)]
    separate = lengths.copy()
    lengths.clear()
    expected = (4 * parts[0] + 2 * parts[1] + parts[2]) / 7
    # Measured 0 to 6e-8 relative.
    assert loss(states, halvings=2) == pytest.approx(expected, rel=1e-6)
    assert lengths == pytest.approx([0.25] * 8 + [0.5] * 4 + [1.0] * 2)
    # What each length alone calls a step is a part of its own trajectory.
    assert separate == pytest.approx(lengths)


def batch_of(recipe: Recipe) -> Batch:
    data = step_data(recipe, 0)
    images, rows = to_network_range(data.images), range(recipe.batch)
    _, context, mask = start(recipe.batch)
    return Batch(images=images, context=context, mask=mask, captions=data.captions, positions=rows)


def test_the_student_learns_the_state_after_so_many_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked: list[Tensor] = []
    displayed: list[Tensor] = []
    asked: list[int] = []

    def walk(*arguments: Any) -> tuple[Tensor, Tensor]:
        states, estimates = guided_trajectory(*arguments)
        walked.append(states)
        return states, estimates

    def look(student: object, states: Tensor, *rest: object, halvings: int) -> Tensor:
        displayed.append(states)
        asked.append(halvings)
        return torch.zeros((), requires_grad=True)

    monkeypatch.setattr(trajectory_matching, "guided_trajectory", walk)
    monkeypatch.setattr(trajectory_matching, "trajectory_loss", look)
    recipe = recipe_of(folder, distill={"halvings": 1})
    objective = TrajectoryMatching(recipe, torch.device("cpu"))
    objective.loss(MMJiT(recipe.model), batch_of(recipe), 0)
    (states,), (long,) = walked, displayed
    assert len(states) == 1 + STEPS * ROWS
    assert torch.equal(long, states[[0, ROWS, 2 * ROWS]]) and asked == [1]
    # One step more for the student, and the same rows of the teacher.
    fewer = TrajectoryMatching(recipe_of(folder), torch.device("cpu")).image_flops
    step = 3 * (adapter_flops(recipe.model) + denoiser_flops(recipe.model))
    assert objective.image_flops - fewer == pytest.approx(step)
    assert torch.equal(long[0], NOISE_SCALE * draw_noise(recipe, 0, range(recipe.batch)))


def test_draws_are_a_function_of_seed_and_step(folder: Path) -> None:
    recipe = recipe_of(folder)
    net = Trainer(recipe, folder.parent / "none").net

    def reported(step: int, **changes: Any) -> float:
        objective = TrajectoryMatching(dataclasses.replace(recipe, **changes), torch.device("cpu"))
        return objective.loss(net, batch_of(recipe), step)[1].item()

    assert reported(3) == reported(3)
    assert len({reported(3), reported(4), reported(3, seed=1)}) == 3
    # Pictures of the data have no part in it.
    objective = TrajectoryMatching(recipe, torch.device("cpu"))
    batch = batch_of(recipe)
    other = dataclasses.replace(batch, images=batch.images + 1)
    assert objective.loss(net, other, 3)[1].item() == reported(3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_learns_its_teachers_steps(folder: Path, precision: str, tmp_path: Path) -> None:
    recipe = recipe_of(folder, steps=40, batch=8, lr=1e-3, precision=precision)
    trainer = Trainer(recipe, tmp_path)
    wide = dataclasses.replace(recipe, batch=32)
    batch = wide_batch(trainer, wide)
    objective = TrajectoryMatching(wide, trainer.device)

    def reported() -> float:
        with torch.no_grad():
            return objective.loss(trainer.net, batch, 0)[1].item()

    before = reported()
    for step in range(40):
        trainer.train_step(step_data(recipe, step))
    # Measured 0.47 of it in either precision.
    assert reported() < 0.6 * before


def test_a_stopped_and_resumed_run_is_the_same_run(folder: Path, tmp_path: Path) -> None:
    assert_resumes(recipe_of(folder, steps=3), tmp_path)


POOLED = {"trajectory_uses": 3, "trajectory_pool": 4}


def test_every_batch_of_a_pool_serves_so_many_steps(folder: Path) -> None:
    recipe = recipe_of(folder, distill=POOLED)
    steps = [data_step(recipe, step) for step in range(24)]
    # Drawn in order, then again in two other orders; and no batch of another pool.
    first, second = steps[:12], steps[12:]
    assert first[:4] == [0, 1, 2, 3] and second[:4] == [4, 5, 6, 7]
    for pool in (first, second):
        uses = [pool[start : start + 4] for start in (0, 4, 8)]
        assert [sorted(use) for use in uses] == [uses[0]] * 3
    # So a batch is never read before its step.
    assert all(drawn <= step for step, drawn in enumerate(steps))
    long = dataclasses.replace(
        recipe, distill=dataclasses.replace(recipe.distill, trajectory_pool=64)
    )
    orders = [
        [data_step(long, step) for step in range(64 * use, 64 * use + 64)] for use in range(3)
    ]
    assert orders[1] != orders[0] and orders[2] != orders[1]
    alone = recipe_of(folder, distill={"trajectory_pool": 4})
    assert [data_step(alone, step) for step in range(9)] == list(range(9))
    assert steps_back(alone, range(9)) is None
    assert steps_back(recipe, range(8)) == [step - steps[step] for step in range(8)]


def test_the_teacher_samples_a_pool_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sampled: list[Tensor] = []
    learned: list[Tensor] = []

    def walk(*arguments: Any) -> tuple[Tensor, Tensor]:
        result = guided_trajectory(*arguments)
        sampled.append(result[0][::ROWS])
        return result

    def loss(student: Any, states: Tensor, *rest: Any, **options: Any) -> Tensor:
        learned.append(states)
        return trajectory_loss(student, states, *rest, **options)

    monkeypatch.setattr(trajectory_matching, "guided_trajectory", walk)
    monkeypatch.setattr(trajectory_matching, "trajectory_loss", loss)
    recipe = recipe_of(folder, steps=16, distill=POOLED)
    trainer = Trainer(recipe, tmp_path)
    trainer.run()
    assert len(sampled) == 8
    for step, states in enumerate(learned):
        assert torch.equal(states, sampled[data_step(recipe, step)])
    # One pool alone is in memory.
    assert isinstance(trainer.objective, TrajectoryMatching)
    assert len(trainer.objective._pool) == 4
    once = TrajectoryMatching(recipe_of(folder), torch.device("cpu")).image_flops
    network = adapter_flops(recipe.model) + denoiser_flops(recipe.model)
    student = 3 * STEPS * network
    assert trainer.objective.image_flops - student == pytest.approx((once - student) / 3)


@pytest.mark.parametrize("stop", [2, 5, 9])
def test_a_run_stopped_within_a_pool_is_the_same_run(
    folder: Path, tmp_path: Path, stop: int
) -> None:
    recipe = recipe_of(folder, steps=13, distill=POOLED)
    straight, halves = Trainer(recipe, tmp_path / "straight"), tmp_path / "halves"
    straight.run()
    # What an interrupted run leaves: the recipe is that of the complete one.
    first = Trainer(recipe, halves)
    for data in itertools.islice(
        first.source.read(stop, steps_back=steps_back(recipe, range(stop))), stop
    ):
        first.train_step(data)
    first.save()
    second = Trainer(recipe, halves)
    assert second.step == stop
    second.run()
    for name, value in straight.deployable_weights().items():
        assert torch.equal(value, second.deployable_weights()[name]), name


def test_a_pool_larger_than_memory_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = recipe_of(folder, batch=4, distill=POOLED)
    # 4 batches of 4 trajectories of 3 states of 3 x 16 x 16 floats.
    needed = 4 * 4 * 3 * 3 * recipe.model.image_size**2 * 4
    monkeypatch.setattr(memory, "memory_bytes", lambda: needed - 1)
    with pytest.raises(UsageError, match=r"distill\.trajectory_pool is 4, whose trajectories take"):
        Trainer(recipe, tmp_path)
    monkeypatch.setattr(memory, "memory_bytes", lambda: needed)
    Trainer(recipe, tmp_path)


@pytest.mark.parametrize("rows", [0, ROWS], ids=["mean flow", "trajectories"])
def test_a_student_may_begin_as_an_earlier_one(folder: Path, tmp_path: Path, rows: int) -> None:
    first = Trainer(recipe_of(folder, steps=2), tmp_path / "first")
    for step in range(2):
        first.train_step(step_data(first.recipe, step))
    first.save()
    earlier = tmp_path / "first" / "step-000002"
    changes = {"start_from": str(earlier), "distill": {"teacher_rows": rows}}
    second = Trainer(recipe_of(folder, **changes), tmp_path / "second")
    expected = load_checkpoint(earlier).tensors
    for name, value in second.parameters.items():
        assert np.array_equal(value.detach().numpy(), expected[name]), name
    # A base model has no condition tokens to begin with.
    with pytest.raises(TrainingError, match=r"is another network \(model\.student is None"):
        Trainer(recipe_of(folder, start_from=str(folder)), tmp_path / "third")


def test_what_conditions_it_is_given_is_drawn_once_a_image() -> None:
    conditions = StepConditions(
        **{name: torch.arange(3.0) for name in ("t", "r", "omega", "t_min", "t_max")}
    )
    picked = conditions.select(torch.tensor([2, 0]))
    assert type(picked) is StepConditions and picked.omega.tolist() == [2.0, 0.0]
    assert type(guidance([1.0]).select(slice(0, 1))) is GuidanceConditions
