"""What a run tells: trackers, throughput, sample prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from minit2i_deploy.errors import MissingDependencyError, TrainingError
from minit2i_deploy.flops import adapter_flops, denoiser_flops
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.reporting.sampler import Sampler
from minit2i_deploy.training.reporting.throughput import Throughput, matrix_rate
from minit2i_deploy.training.reporting.tracking import Trackers
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import TINY_MODEL, log_of, tiny_recipe


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    names = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


def test_tensorboard_has_the_figures_and_the_grid_of_a_run(tmp_path: Path) -> None:
    Trainer(tiny_recipe(steps=2, track=["tensorboard"]), tmp_path).run()
    actual = scalars(tmp_path)
    assert {"loss", "lr", "score", "images_s", "mfu"} == set(actual)
    loss, score = log_of(tmp_path)
    assert actual["loss"] == [(2, pytest.approx(loss["loss"]))]
    assert actual["score"] == [(2, pytest.approx(score["score"]))]
    assert actual["images_s"][0][1] > 0 and 0 < actual["mfu"][0][1] < 1


def test_a_resumed_run_replaces_the_figures_of_steps_it_makes_again(tmp_path: Path) -> None:
    for step, loss in ((0, 1.0), (2, 5.0)):
        trackers = Trackers.open(tiny_recipe(track=["tensorboard"]), tmp_path, step)
        for later in range(step + 1, 5):
            trackers.log_metrics(later, loss=loss + later)
        trackers.close()
    assert scalars(tmp_path)["loss"] == [(1, 2.0), (2, 3.0), (3, 8.0), (4, 9.0)]


class FakeWandb:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.begun: dict[str, Any] = {}
        self.logged: list[tuple[Any, ...]] = []

    def init(self, **settings: Any) -> SimpleNamespace:
        self.begun = settings
        return SimpleNamespace(
            log=lambda values, step: self.logged.append((step, values)),
            finish=lambda: self.logged.append(("finish",)),
        )

    def Image(self, path: str) -> str:
        return f"image of {path}"


def test_weights_and_biases_gets_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    trackers = Trackers.open(tiny_recipe(track=["wandb"]), tmp_path, 0)
    trackers.log_metrics(3, loss=0.5)
    trackers.log_image(3, tmp_path / "a.png")
    trackers.close()
    assert fake.begun["name"] == "tiny" and fake.begun["config"]["steps"] == 6
    assert fake.logged[0] == (3, {"loss": 0.5}) and fake.logged[-1] == ("finish",)
    assert fake.logged[1] == (3, {"samples": f"image of {tmp_path / 'a.png'}"})
    first = fake.begun["id"]
    Trackers.open(tiny_recipe(track=["wandb"]), tmp_path, 3)
    assert fake.begun["id"] == first and fake.begun["resume"] == "allow"


def test_trackers_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="wandb is not installed"):
        Trackers.open(tiny_recipe(track=["wandb"]), tmp_path, 0)

    def refuse(**settings: Any) -> None:
        raise ConnectionError("no key\nis there")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(TrainingError, match=r"wandb cannot start \(no key is there\); run wandb"):
        Trackers.open(tiny_recipe(track=["wandb"]), tmp_path, 0)


def test_throughput_is_images_over_time_and_its_share_of_the_machine() -> None:
    throughput = Throughput(batch=8, image_flops=3e9, machine_rate=1e12)
    for _ in range(4):
        throughput.add(0.5)
    figures = throughput.figures()
    assert figures["images_s"] == pytest.approx(16)
    assert figures["mfu"] == pytest.approx(16 * 3e9 / 1e12)
    # Twenty steps later an old one counts half.
    for _ in range(20):
        throughput.add(1.0)
    assert 8 < throughput.figures()["images_s"] < 10


def test_the_machines_rate_is_that_of_its_products() -> None:
    rate = matrix_rate(torch.device("cpu"), "fp32")
    assert 1e8 < rate < 1e15


def test_flops_of_a_image(tmp_path: Path) -> None:
    once = denoiser_flops(TINY_MODEL) + adapter_flops(TINY_MODEL)
    assert Trainer(tiny_recipe(), tmp_path).objective.image_flops == 3 * once


def test_own_prompts_are_sampled_and_not_scored(tmp_path: Path) -> None:
    recipe = tiny_recipe(steps=1, sample_prompts=["a cat", "a red circle", "two dogs"])
    Trainer(recipe, tmp_path).run()
    assert [set(line) for line in log_of(tmp_path)] == [{"step", "loss", "lr"}]
    with Image.open(tmp_path / "samples" / "step-000001.png") as image:
        # Three pictures in two columns.
        assert image.width < 3 * 16 and image.height >= 2 * 16


def test_sampling_takes_the_weights_it_is_given(tmp_path: Path) -> None:
    recipe = tiny_recipe(sample_prompts=["a cat"])
    trainer = Trainer(recipe, tmp_path)
    sampler = Sampler(trainer.text, recipe, tmp_path, trainer.device)
    pictures = []
    for seed in (0, 1):
        net = MMJiT(TINY_MODEL)
        generator = torch.Generator().manual_seed(seed)
        weights = {name: value.detach() for name, value in net.canonical_parameters().items()}
        bias = weights["final_layer.linear.bias"]
        bias.copy_(torch.rand(bias.shape, generator=generator))
        before = {name: value.clone() for name, value in weights.items()}
        with Image.open(sampler(weights, seed).path) as image:
            pictures.append(np.asarray(image))
        assert all(torch.equal(value, before[name]) for name, value in weights.items())
    assert not np.array_equal(*pictures)
