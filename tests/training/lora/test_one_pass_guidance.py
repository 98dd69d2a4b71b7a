"""Guidance in one pass: its targets, its loss, its runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import UsageError
from minit2i_deploy.model import Step, build_network
from minit2i_deploy.model.loop import run_table
from minit2i_deploy.solvers.table import Table, solver_table
from minit2i_deploy.training.checkpoint import list_checkpoints
from minit2i_deploy.training.lora import flow_matching
from minit2i_deploy.training.lora.one_pass_guidance import (
    SHIFTS,
    OnePassGuidance,
    one_pass_loss,
)
from minit2i_deploy.training.objectives.mean_flow_loss import GuidanceConditions
from minit2i_deploy.training.objectives.trajectory_loss import guided_trajectory
from minit2i_deploy.training.recipe.lora import LoraRecipe
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import (
    TINY_MODEL,
    assert_same_state,
    step_data,
    tiny_recipe,
    tiny_teacher,
)

pytestmark = pytest.mark.filterwarnings(
    # Python 3.12 warns of any fork beside other threads; the data worker draws with numpy alone.
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)

# float32 against the same sums in another order; measured 9.5e-7 of values up to 7.
MAX_ABS_ERROR = 1e-5
SCALE = 3.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("base"))


def guidance_recipe(base: Path, **changes: Any) -> Recipe:
    lora = LoraRecipe(base=str(base), rank=8, alpha=8.0, guidance=SCALE, trajectory_rows=3)
    values: dict[str, Any] = {"optimizer": "adamw", "ema_decay": 0.5, "label_drop": 0.0}
    return tiny_recipe(lora=lora, **values | changes)


def start(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = torch.ones(batch, TINY_MODEL.prompt_length)
    mask[:, 5:] = 0
    context = torch.randn(batch, TINY_MODEL.prompt_length, 128, generator=generator)
    return 2 * torch.randn(batch, 3, 16, 16, generator=generator), context, mask


def guided(base: Path, table: Table, batch: int = 2) -> tuple[Tensor, Tensor]:
    noise, context, mask = start(batch)
    scale = torch.full((batch,), SCALE)
    conditions = GuidanceConditions(omega=scale, t_min=torch.zeros(batch), t_max=torch.ones(batch))
    net = build_network(load_checkpoint(base))
    return guided_trajectory(net, noise, context, mask, conditions, table)


def test_targets_are_the_guided_estimates_of_the_sampling_loop(base: Path) -> None:
    table = solver_table("dpmpp2m", steps=4)
    states, estimates = guided(base, table)
    noise, context, mask = start(2)
    net = build_network(load_checkpoint(base))
    with torch.no_grad():
        tokens = torch.stack([net.text_adapter(context, m) for m in (mask, 0 * mask)])
        # The history of dpmpp2m is the guided estimate itself.
        loop = [h for _, h in run_table(Step(net.denoiser), noise, tokens, table, SCALE)]
        branches = [net(states[1], context, m) for m in (mask, 0 * mask)]
    assert estimates.shape == (4, 2, 3, 16, 16)
    assert (estimates - torch.stack(loop)).abs().max() <= MAX_ABS_ERROR
    expected = SCALE * branches[0] + (1 - SCALE) * branches[1]
    assert (estimates[1] - expected).abs().max() <= MAX_ABS_ERROR


def test_the_loss_is_the_mean_square_of_velocities(base: Path) -> None:
    table = solver_table("ab2", steps=3, a_min=1 / 3)
    states, estimates = guided(base, table)
    _, context, mask = start(2)
    off = torch.tensor([0.3, -0.2, 0.1])

    def net(x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        rows = x.reshape(3, 2, 3, 16, 16)
        assert torch.equal(rows, states[:-1]) and context.shape[0] == mask.shape[0] == 6
        return (estimates + off.reshape(3, 1, 1, 1, 1)).flatten(0, 1)

    actual = one_pass_loss(net, states[:-1], estimates, context, mask, table, 0.5)
    # 1 - t is 1, 2/3 and 1/3, the last of them below the floor.
    expected = (off / torch.tensor([1.0, 2 / 3, 0.5])).square().mean()
    assert actual.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_loss_falls_on_one_batch(base: Path, tmp_path: Path) -> None:
    recipe = guidance_recipe(base)
    trainer = Trainer(recipe, tmp_path)
    assert isinstance(trainer.objective, OnePassGuidance)
    data, actual = step_data(recipe, 0), []
    for _ in range(30):
        # The same draws each time.
        trainer.step = 0
        actual.append(trainer.train_step(data))
    assert actual[-1] < 0.6 * actual[0]


def test_no_image_is_used(base: Path, tmp_path: Path) -> None:
    recipe = guidance_recipe(base)
    data = step_data(recipe, 0)
    others = dataclasses.replace(data, images=255 - data.images)
    assert (others.images != data.images).any()
    losses = [
        Trainer(recipe, tmp_path / str(i)).train_step(each) for i, each in enumerate((data, others))
    ]
    assert losses[0] == losses[1]


def test_every_step_has_another_grid(base: Path, tmp_path: Path) -> None:
    objective = Trainer(guidance_recipe(base), tmp_path).objective
    assert isinstance(objective, OnePassGuidance)
    shifts = [objective._table(step).meta["shift"] for step in range(50)]
    assert len(set(shifts)) == 50
    assert SHIFTS[0] <= min(shifts) < 0.8 and 2.4 < max(shifts) <= SHIFTS[1]
    assert objective._table(7) == objective._table(7)


def test_a_run_that_was_interrupted_ends_in_the_same_bits(base: Path, tmp_path: Path) -> None:
    recipe = guidance_recipe(base)
    straight = Trainer(recipe, tmp_path / "straight").run()
    Trainer(dataclasses.replace(recipe, steps=3), tmp_path / "parts").run()
    resumed = Trainer(recipe, tmp_path / "parts").run()
    assert len(list_checkpoints(tmp_path / "parts")) == 2
    assert_same_state(straight, resumed)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"guidance": 0.5}, "lora.guidance is 0.5, but it must be 1 or more"),
        ({"guidance": "high"}, "lora.guidance is 'high'"),
        ({"trajectory_rows": 1}, "lora.trajectory_rows is 1, but it must be in 2.."),
        ({"trajectory_rows": 8}, "lora.trajectory_rows is 8, but lora.guidance is 1, and only"),
        ({"guidance": 2.0, "new_words": ["cyan"]}, "new_words and lora.guidance are set"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        LoraRecipe(base="base", **values)


def test_the_base_is_read_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    monkeypatch.setattr(
        flow_matching, "load_checkpoint", lambda path: reads.append(path) or load_checkpoint(path)
    )
    objective = OnePassGuidance(guidance_recipe(base), torch.device("cpu"))
    assert len(reads) == 1 and objective.base_sha256 == load_checkpoint(base).report.sha256
