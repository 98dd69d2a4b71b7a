"""The loop: resumed runs are the uninterrupted ones to the last bit, and bad runs stop."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.training import train
from minit2i_deploy.training.checkpoint import list_checkpoints
from minit2i_deploy.training.distributed.processes import select_device
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import assert_same_state, log_of, state_of, step_data, tiny_recipe

pytestmark = pytest.mark.filterwarnings(
    # Python 3.12 warns of any fork beside other threads; the data worker draws with numpy alone.
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps in one go."""
    folder = tmp_path_factory.mktemp("straight")
    Trainer(tiny_recipe(), folder).run()
    return folder


def losses(trainer: Trainer, num_steps: int) -> list[float]:
    return [trainer.train_step(step_data(trainer.recipe, trainer.step)) for _ in range(num_steps)]


def test_a_run_leaves_checkpoints_samples_and_a_log(straight: Path) -> None:
    assert [path.name for path in list_checkpoints(straight)] == ["step-000003", "step-000006"]
    assert sorted(path.name for path in straight.iterdir()) == [
        "log.jsonl",
        "recipe.json",
        "samples",
        "step-000003",
        "step-000006",
    ]
    with Image.open(straight / "samples" / "step-000006.png") as image:
        assert image.size >= (8 * 16, 6 * 16)
    loss, score = log_of(straight)
    assert loss["step"] == score["step"] == 6 and loss["lr"] == 1e-2
    assert math.isfinite(loss["loss"]) and 0 <= score["score"] <= 1


def test_training_moves_every_weight_that_reaches_the_output(straight: Path) -> None:
    early, late = (state_of(path) for path in list_checkpoints(straight))
    still = {name for name in early if name.startswith("model") and early[name].equal(late[name])}
    last = "model.double_blocks.1.txt_"
    inert = ["attn_proj.bias", "attn_proj.weight", "norm2.weight"]
    inert += [f"mlp.w{i}.weight" for i in (1, 2, 3)]
    assert still == {last + name for name in inert}


def test_a_run_stopped_and_resumed_is_the_same_run(tmp_path: Path, straight: Path) -> None:
    uninterrupted = losses(Trainer(tiny_recipe(), tmp_path / "other"), 6)
    first = Trainer(tiny_recipe(), tmp_path / "run")
    actual = losses(first, 3)
    first.save()
    second = Trainer(tiny_recipe(), tmp_path / "run")
    assert second.step == 3
    actual += losses(second, 3)
    assert actual == uninterrupted
    second.save()
    for name in ("step-000003", "step-000006"):
        assert_same_state(tmp_path / "run" / name, straight / name)


@pytest.mark.parametrize("steps_done", [3, 5])
def test_resuming_works_with_the_plain_optimizer_too(tmp_path: Path, steps_done: int) -> None:
    recipe = tiny_recipe(optimizer="adamw", decay_steps=2, label_drop=0.5)
    whole = losses(Trainer(recipe, tmp_path / "whole"), 6)
    first = Trainer(recipe, tmp_path / "run")
    actual = losses(first, steps_done)
    first.save()
    assert actual + losses(Trainer(recipe, tmp_path / "run"), 6 - steps_done) == whole


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from minit2i_deploy.training import checkpoint
from minit2i_deploy.training.trainer import Trainer
sys.path.insert(0, sys.argv[1])
from tests.helpers.training_runs import tiny_recipe

save, calls = checkpoint.torch.save, []

def save_or_die(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*arguments)

checkpoint.torch.save = save_or_die
Trainer(tiny_recipe(checkpoint_every=2), Path(sys.argv[2])).run()
"""


def test_a_run_killed_while_it_writes_a_checkpoint_continues(
    tmp_path: Path, straight: Path, repository: Path
) -> None:
    folder = tmp_path / "run"
    arguments = [sys.executable, "-c", KILLED, str(repository), str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    names = sorted(path.name.partition(".partial")[0] for path in folder.glob("*step-*"))
    assert names == [".step-000004", "step-000002"]
    # The second process cut its log short and had made steps that are made again.
    with open(folder / "log.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    last = Trainer(tiny_recipe(checkpoint_every=2), folder).run()
    assert last == folder / "step-000006"
    assert_same_state(last, straight / "step-000006")
    assert log_of(folder) == log_of(straight)
    assert list(folder.glob(".*")) == []


def test_a_checkpoint_from_before_the_data_had_a_state_goes_on(
    tmp_path: Path, straight: Path
) -> None:
    shutil.copytree(straight / "step-000003", tmp_path / "step-000003")
    header = json.loads((tmp_path / "step-000003" / "checkpoint.json").read_text("utf-8"))
    assert header.pop("data")["samples_seen"] == 12
    (tmp_path / "step-000003" / "checkpoint.json").write_text(json.dumps(header), "utf-8")
    assert_same_state(Trainer(tiny_recipe(), tmp_path).run(), straight / "step-000006")


def test_micro_batches_make_the_same_run(tmp_path: Path) -> None:
    whole = losses(Trainer(tiny_recipe(optimizer="adamw"), tmp_path / "whole"), 4)
    parts = tiny_recipe(optimizer="adamw", accumulate=4, recompute=True)
    # Measured 4e-7.
    assert losses(Trainer(parts, tmp_path / "parts"), 4) == pytest.approx(whole, rel=1e-5)


def test_a_batch_that_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch is 4, but 1 processes with accumulate 3 need"):
        Trainer(tiny_recipe(accumulate=3), tmp_path)


def test_a_finished_run_is_not_changed(straight: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    assert Trainer(tiny_recipe(), straight).run() == straight / "step-000006"
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


def test_another_network_is_refused(straight: Path) -> None:
    model = tiny_recipe().model.to_dict() | {"pca_channels": 16}
    with pytest.raises(TrainingError, match="pca_channels 8, the recipe has 16"):
        Trainer(tiny_recipe(model=type(tiny_recipe().model)(**model)), straight)


def test_another_optimizer_is_refused(straight: Path) -> None:
    with pytest.raises(TrainingError, match="resume with the optimizer it was written with"):
        Trainer(tiny_recipe(optimizer="adamw"), straight)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    Trainer(tiny_recipe(steps=3), tmp_path).run()
    trainer = Trainer(tiny_recipe(), tmp_path)
    trainer.net.denoiser.final_layer.linear.bias.data[0] = math.inf
    with pytest.raises(
        TrainingError, match=r"the loss of step 4 is inf; nothing was updated, .* last checkpoint"
    ):
        trainer.run()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000003"]
    assert Trainer(tiny_recipe(), tmp_path).step == 3


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path: Path) -> None:
    trainer = Trainer(tiny_recipe(grad_clip=0.0), tmp_path)
    losses(trainer, 1)
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    bias = trainer.parameters["final_layer.linear.bias"]
    bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(TrainingError, match="the gradient norm of step 2 is nan"):
        losses(trainer, 1)
    assert all(torch.equal(value, before[name]) for name, value in trainer.parameters.items())


def test_clipping_bounds_the_gradient_and_zero_leaves_it(tmp_path: Path) -> None:
    def norm(grad_clip: float) -> float:
        trainer = Trainer(tiny_recipe(grad_clip=grad_clip), tmp_path)
        trainer.optimizers.step = lambda lr: None  # type: ignore[method-assign]
        losses(trainer, 1)
        grads = [p.grad for p in trainer.parameters.values() if p.grad is not None]
        return torch.cat([grad.flatten() for grad in grads]).norm().item()

    free = norm(0.0)
    assert free > 0.1
    # Measured 6e-6: the clipping divides by the norm plus 1e-6.
    assert norm(0.05) == pytest.approx(0.05, rel=1e-4)
    assert norm(2 * free) == free


def test_half_precision_trains_float32_weights(tmp_path: Path) -> None:
    recipe = tiny_recipe(steps=60, batch=8, precision="bf16", ema_decay=0.9)
    trainer = Trainer(recipe, tmp_path)
    actual = losses(trainer, 60)
    # Measured 0.47; the first loss is that of a grey picture.
    assert np.mean(actual[-10:]) < 0.7 * np.mean(actual[:10])
    assert all(value.dtype == torch.float32 for value in trainer.parameters.values())


def test_one_entry_trains_from_a_file(tmp_path: Path, repository: Path) -> None:
    recipe = repository / "training" / "recipes" / "demo.yaml"
    small = ["steps=1", "batch=2", "model.image_size=16", "model.hidden_size=32"]
    small += ["model.num_heads=2", "model.head_dim=16", "model.depth_double=1"]
    small += ["compile=false", "sample_steps=1"]
    last = train(recipe, tmp_path / "run", small)
    assert last == tmp_path / "run" / "step-000001" and state_of(last)


def test_a_folder_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(UsageError, match=r"cannot be written .*choose a folder you can write"):
        Trainer(tiny_recipe(), tmp_path / "file" / "run").run()


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("cpu").type == select_device("auto").type == "cpu"
    with pytest.raises(TrainingError, match=r"but torch .* finds no CUDA device"):
        select_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [select_device(name).type for name in ("cpu", "cuda", "auto")] == ["cpu", "cuda", "cuda"]


@pytest.mark.gpu
def test_a_gpu_makes_the_same_first_losses(tmp_path: Path) -> None:
    on_cpu = losses(Trainer(tiny_recipe(), tmp_path / "cpu"), 3)
    on_gpu = losses(Trainer(tiny_recipe(device="cuda"), tmp_path / "gpu"), 3)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)
