"""Several processes train as one does, in every way of sharing the work."""

from __future__ import annotations

import dataclasses
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from minit2i_deploy.errors import UsageError
from minit2i_deploy.training.distributed.processes import Processes
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_processes import in_processes, killed, losses_of, trained
from tests.helpers.training_runs import (
    state_of,
    step_data,
    tiny_recipe,
    tiny_student_recipe,
    tiny_teacher,
)

NUM_STEPS = 4
WAYS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "ddp, bf16": {"precision": "bf16"},
    "ddp, micro-batches": {"accumulate": 2},
    "ddp, recomputed": {"recompute": True},
    "fsdp": {"parallel": "fsdp"},
    "fsdp, bf16": {"parallel": "fsdp", "precision": "bf16"},
    "fsdp, micro-batches, recomputed": {"parallel": "fsdp", "accumulate": 2, "recompute": True},
    "fsdp, AdamW": {"parallel": "fsdp", "optimizer": "adamw"},
}

# Objective of a student -> what of its distillation makes it so.
STUDENTS: dict[str, dict[str, Any]] = {
    "mean flow": {},
    "trajectories": {"teacher_rows": 2},
    "free flow": {"states": "prior"},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of two processes for each way, and one of a student by each objective."""
    base = tmp_path_factory.mktemp("pairs")
    ways = WAYS | {name: student_changes(base, part) for name, part in STUDENTS.items()}
    folders = {way: base / f"run-{i}" for i, way in enumerate(ways)}
    runs = [(folders[way], ways[way]) for way in ways]
    assert in_processes(2, trained, runs, NUM_STEPS) == [0, 0]
    return folders


def student_changes(base: Path, distill: dict[str, Any]) -> dict[str, Any]:
    if not (base / "teacher").exists():
        tiny_teacher(base / "teacher")
    recipe = tiny_student_recipe(base / "teacher" / "step-000001")
    names = ("model", "distill", "label_drop", "ema_halflife_kimg", "ema_rampup")
    changes = {name: getattr(recipe, name) for name in names}
    changes["distill"] = dataclasses.replace(recipe.distill, **distill)
    # Muon's iterations in bf16 would make more of the last bits.
    return changes | {"optimizer": "adamw", "lr": 1e-3, "sample_steps": 2}


def losses_alone(folder: Path, changes: dict[str, Any]) -> list[float]:
    alone = Trainer(tiny_recipe(**changes), folder)
    losses = [alone.train_step(step_data(alone.recipe, step)) for step in range(NUM_STEPS)]
    alone.save()
    return losses


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_have_the_losses_of_one(
    way: str, pairs: dict[str, Path], tmp_path: Path
) -> None:
    names = ("precision", "optimizer")
    changes = {name: value for name, value in WAYS[way].items() if name in names}
    expected = losses_alone(tmp_path, changes)
    # Measured 6e-6 and, where bf16 rounds other sums, 2e-3.
    bound = 1e-2 if "bf16" in way else 1e-4
    assert losses_of(pairs[way]) == pytest.approx(expected, rel=bound)
    assert len(set(expected)) == NUM_STEPS


@pytest.mark.parametrize("student", STUDENTS)
def test_two_processes_distil_as_one_does(
    student: str, pairs: dict[str, Path], tmp_path: Path
) -> None:
    expected = losses_alone(tmp_path, student_changes(pairs[student].parent, STUDENTS[student]))
    assert losses_of(pairs[student]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_their_checkpoint_is_one_processs(way: str, pairs: dict[str, Path], tmp_path: Path) -> None:
    name = f"step-{NUM_STEPS:06d}"
    losses_alone(tmp_path, {})
    actual, expected = state_of(pairs[way] / name), state_of(tmp_path / name)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key].shape == value.shape, key
    # One process continues what two have written, and the other way round.
    resumed = Trainer(tiny_recipe(), pairs[way])
    assert resumed.step == NUM_STEPS
    for key, value in resumed.parameters.items():
        assert torch.equal(value.detach(), actual[f"model.{key}"]), key


@pytest.mark.parametrize("seed", [12, 17])
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_killed_at_any_step_go_on_as_if_they_had_not_been(
    way: str, seed: int, pairs: dict[str, Path], tmp_path: Path
) -> None:
    draw = random.Random(f"{way} {seed}")
    saved = draw.randint(1, NUM_STEPS - 1)
    done = draw.randint(saved, NUM_STEPS - 1)
    halfway = draw.random() < 0.5
    print(
        f"{way}: saved after step {saved}, killed after step {done}",
        "and a half" if halfway else "",
    )
    folder = tmp_path / "run"
    codes = in_processes(2, killed, folder, WAYS[way], saved, done, halfway)
    assert codes == [-signal.SIGKILL] * 2
    assert len(losses_of(folder)) == done
    assert in_processes(2, trained, [(folder, WAYS[way])], NUM_STEPS) == [0, 0]
    # Later lines of a step made again replace the earlier ones. Measured equal to the last bit.
    assert losses_of(folder) == pytest.approx(losses_of(pairs[way]), rel=1e-6)


def test_more_processes_than_the_batch_has_parts_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes = Processes("cpu")
    assert processes.positions(6, 1) == range(6)
    monkeypatch.setattr(Processes, "count", 4)
    with pytest.raises(UsageError, match="batch is 6, but 4 processes with accumulate 1"):
        processes.positions(6, 1)
    monkeypatch.setattr(Processes, "index", 1)
    assert processes.positions(8, 2) == range(1, 8, 4)
