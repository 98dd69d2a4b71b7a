"""A student trained from noise alone: its own states, the derivative, the loss, and runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.model import MMJiT, build_network
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.training.data import to_network_range
from minit2i_deploy.training.objectives.free_flow import FreeFlow
from minit2i_deploy.training.objectives.free_flow_loss import (
    end_derivative,
    end_velocity,
    states_of_student,
)
from minit2i_deploy.training.objectives.mean_flow_loss import (
    GuidanceConditions,
    StepConditions,
    mean_flow_loss,
    mean_velocity,
)
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import (
    TINY_MODEL,
    TINY_STUDENT,
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

STEPS = 3
FLOOR = 0.05


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("teacher"))


def recipe_of(teacher: Path, **changes: Any) -> Recipe:
    distill = DistillRecipe(teacher=str(teacher), states="prior", omega=(1.5, 4.0))
    return tiny_student_recipe(teacher, distill=distill, sample_steps=STEPS, **changes)


def student_of(teacher: Path) -> MMJiT:
    """A student whose conditions reach its output."""
    net = Trainer(recipe_of(teacher), teacher.parent / "none").net
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in net.parameters():
            value += 0.05 * torch.randn(value.shape, generator=generator)
    return net


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text_of(batch: int) -> tuple[Tensor, Tensor]:
    mask = torch.ones(batch, TINY_MODEL.prompt_length)
    mask[:, 5:] = 0
    return normal(batch, TINY_MODEL.prompt_length, 128, seed=1), mask


def guidance_of(batch: int) -> GuidanceConditions:
    values = torch.linspace(0, 1, batch)
    return GuidanceConditions(omega=2 + values, t_min=0.1 * values, t_max=1 - 0.1 * values)


def steps_of(batch: int) -> StepConditions:
    guidance = guidance_of(batch)
    t = torch.linspace(0.3, 1, batch)
    return StepConditions(
        t=t, r=t - 0.2, omega=guidance.omega, t_min=guidance.t_min, t_max=guidance.t_max
    )


def test_states_are_those_of_the_table_that_generates(teacher: Path) -> None:
    """Against the rows of ``mean-flow``, an image at a time."""
    net = student_of(teacher)
    noise, (context, mask) = 2 * normal(4, 3, 16, 16), text_of(4)
    guidance, starts = guidance_of(4), torch.tensor([0, 2, 1, 2])
    actual = states_of_student(net, noise, context, mask, guidance, starts, STEPS, FLOOR)
    rows = solver_table("mean-flow", steps=STEPS, a_min=FLOOR).steps()
    coefficients = [row.values.tolist() for row in rows]
    for i, start in enumerate(starts.tolist()):
        x = noise[i : i + 1].double()
        told = {name: getattr(guidance, name)[i : i + 1] for name in ("omega", "t_min", "t_max")}
        for a, b, *_ in coefficients[:start]:
            with torch.no_grad():
                h = torch.tensor([1 / STEPS])
                y = net(x.float(), context[i : i + 1], mask[i : i + 1], h=h, **told)
            x = a * x + b * y.double()
        # Measured 2.1e-6 of values up to 9.
        assert (actual[i] - x[0]).abs().max() < 2e-5
    assert not actual.requires_grad and torch.equal(actual[0], noise[0])


def test_the_derivative_is_that_of_differences(teacher: Path) -> None:
    net = student_of(teacher).double()
    z, (context, mask), steps = normal(2, 3, 16, 16).double(), text_of(2), steps_of(2)
    doubles = {f.name: getattr(steps, f.name).double() for f in dataclasses.fields(steps)}
    conditions = StepConditions(**doubles)

    def u(step: float) -> Tensor:
        moved = dataclasses.replace(conditions, r=conditions.r + step)
        return mean_velocity(net, z, context.double(), mask, moved, FLOOR).double()

    actual = end_derivative(net, z, context.double(), mask, conditions, FLOOR)
    s = 2e-3
    differences = (8 * (u(s) - u(-s)) - (u(2 * s) - u(-2 * s))) / (12 * s)
    assert differences.abs().max() > 1e-3
    error = ((actual - differences).abs().max() / differences.abs().max()).item()
    # Float32 inside the velocity bounds the differences; measured 3e-5.
    assert error < 1e-3


@pytest.mark.parametrize("r", [0.2, 0.5, 0.75])
def test_a_student_that_follows_its_teacher_has_no_loss(r: float) -> None:
    """On dz/dt = 2 z the flow from 0.8 down to r is z exp(2 (r - 0.8)), known in closed form."""
    t, end = torch.tensor([0.8]), torch.tensor([r])
    conditions = StepConditions(t=t, r=end, omega=t + 1, t_min=0 * t, t_max=0 * t)

    def teacher(x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        return x - r * 2 * x

    def student(x: Tensor, context: Any, mask: Any, *, h: Tensor, **_: Any) -> Tensor:
        rate = 2.0 * wrong
        return x - 0.8 * x * ((1 - torch.exp(-rate * h)) / h)[:, None, None, None]

    def loss() -> float:
        u = mean_velocity(student, z, z, z, conditions, FLOOR)
        v = end_velocity(teacher, z, u, z, z, conditions, FLOOR)
        rate = end_derivative(student, z, z, z, conditions, FLOOR)
        return mean_flow_loss(u, -rate, v, t - end)[1].item()

    z = torch.full((1, 1, 1, 1), 3.0)
    wrong = 1.0
    # Measured 6e-12 of velocities near 6.
    assert loss() < 1e-8
    wrong = 1.1
    # Measured 0.026 or more.
    assert loss() > 0.01


def test_guidance_counts_by_the_level_where_the_step_ends(teacher: Path) -> None:
    net, (context, mask) = build_network(load_checkpoint(teacher)), text_of(1)
    z = normal(1, 3, 16, 16)
    one = torch.ones(1)

    def velocity(r: float, t_min: float) -> Tensor:
        steps = StepConditions(t=0.9 * one, r=r * one, omega=3 * one, t_min=t_min * one, t_max=one)
        return end_velocity(net, z, 0 * z, context, mask, steps, FLOOR)

    assert torch.equal(velocity(0.5, 0.1), velocity(0.5, 0.5))
    assert not torch.equal(velocity(0.5, 0.1), velocity(0.5, 0.6))


def batch_of(recipe: Recipe) -> Batch:
    data = step_data(recipe, 0)
    context, mask = text_of(recipe.batch)
    images, rows = to_network_range(data.images), range(recipe.batch)
    return Batch(images=images, context=context, mask=mask, captions=data.captions, positions=rows)


def test_draws_are_a_function_of_seed_and_step_and_images_have_no_part(teacher: Path) -> None:
    recipe = recipe_of(teacher)
    net = student_of(teacher)

    batch = batch_of(recipe)

    def reported(step: int, shift: float = 0.0, **changes: Any) -> float:
        objective = FreeFlow(dataclasses.replace(recipe, **changes), torch.device("cpu"))
        moved = dataclasses.replace(batch, images=batch.images + shift)
        return objective.loss(net, moved, step)[1].item()

    assert reported(3) == reported(3)
    assert len({reported(3), reported(4), reported(3, seed=1)}) == 3
    assert reported(3, shift=1.0) == reported(3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_learns_from_noise_alone(teacher: Path, precision: str, tmp_path: Path) -> None:
    recipe = recipe_of(teacher, steps=40, batch=8, lr=1e-3, precision=precision)
    trainer = Trainer(recipe, tmp_path)
    wide = dataclasses.replace(recipe, batch=64)
    batch = wide_batch(trainer, wide)

    def reported() -> float:
        return FreeFlow(wide, trainer.device).loss(trainer.net, batch, 0)[1].item()

    before = reported()
    for step in range(40):
        trainer.train_step(step_data(recipe, step))
    # Measured 0.62 of it in either precision.
    assert reported() < 0.75 * before


def test_a_stopped_and_resumed_run_is_the_same_run(teacher: Path, tmp_path: Path) -> None:
    assert_resumes(recipe_of(teacher, steps=3), tmp_path)


def test_the_student_that_begins_is_the_recipes(teacher: Path, tmp_path: Path) -> None:
    recipe = recipe_of(teacher)
    assert recipe.model == TINY_STUDENT
    assert isinstance(Trainer(recipe, tmp_path).objective, FreeFlow)
