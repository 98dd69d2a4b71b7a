"""Which parts of a network a run compiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from minit2i_deploy.training.distributed import parallel
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import step_data, tiny_recipe, tiny_student_recipe, tiny_teacher

# torch looks at it while compiling and hides this warning itself, unless warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Compiling that is quick; receives the names of the functions it was asked for."""
    requested: list[str] = []
    quick = partial(torch.compile, backend="aot_eager")

    def named(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        requested.append(function.__name__)
        return quick(function, **settings)

    monkeypatch.setattr(parallel.torch, "compile", named)
    return requested


@pytest.mark.parametrize("recompute", [False, True])
def test_blocks_of_one_kind_share_a_compiled_form(
    recompute: bool, compiles: list[str], tmp_path: Path
) -> None:
    deep = dataclasses.replace(tiny_recipe().model, depth_double=5)
    recipe = tiny_recipe(model=deep, recompute=recompute)
    plain = Trainer(recipe, tmp_path / "plain")
    trainer = Trainer(dataclasses.replace(recipe, compile=True), tmp_path / "compiled")
    assert len(compiles) == 2 + 2 * 5
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for step in range(2):
        expected = plain.train_step(step_data(recipe, step))
        # Measured equal to the last bit.
        assert trainer.train_step(step_data(recipe, step)) == pytest.approx(expected, rel=1e-6)
    # Of a text block, a double block and the last one.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_students_blocks_and_its_teachers_are_compiled(
    compiles: list[str], tmp_path: Path
) -> None:
    recipe = tiny_student_recipe(tiny_teacher(tmp_path / "teacher"))
    plain = Trainer(recipe, tmp_path / "plain")
    trainer = Trainer(dataclasses.replace(recipe, compile=True), tmp_path / "compiled")
    assert len(compiles) == 2 * (2 + 2 * 2)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for step in range(2):
        expected = plain.train_step(step_data(recipe, step))
        # Measured equal to the last bit.
        assert trainer.train_step(step_data(recipe, step)) == pytest.approx(expected, rel=1e-6)
    # Three with a gradient and three without; what is differentiated forwards is left alone.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 6
    assert not torch._dynamo.utils.counters["unimplemented"]


def test_nothing_is_compiled_unasked(compiles: list[str], tmp_path: Path) -> None:
    Trainer(tiny_recipe(), tmp_path)
    assert compiles == []
