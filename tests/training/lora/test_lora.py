"""Adapters: they change nothing at first, then alone; their folder is the network that learned."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import minit2i_deploy
from minit2i_deploy.checkpoints import linear_modules, load_checkpoint
from minit2i_deploy.cli import main
from minit2i_deploy.errors import CheckpointError, TrainingError, UsageError
from minit2i_deploy.generate import generate
from minit2i_deploy.model.build import build_network
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.training import train
from minit2i_deploy.training.checkpoint import list_checkpoints
from minit2i_deploy.training.lora.adapter_folder import release_adapter
from minit2i_deploy.training.lora.layers import adapter_parameters
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.recipe.lora import LoraRecipe
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
    tiny_teacher,
)

ASSETS = Path(minit2i_deploy.__file__).parent / "demo" / "assets"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A run of six steps in one go."""
    folder = tmp_path_factory.mktemp("straight")
    Trainer(lora_recipe(base), folder).run()
    return folder


def lora_recipe(base: Path, *, lora: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    values = {"rank": 4, "alpha": 6.0} | (lora or {})
    changes = {"optimizer": "adamw", "ema_decay": 0.5} | changes
    return tiny_recipe(lora=LoraRecipe(base=str(base), **values), **changes)


def inputs(num: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(num, 3, 16, 16, generator=generator)
    context = torch.randn(num, 20, 128, generator=generator)
    return x, context, torch.ones(num, 20)


@torch.no_grad()
def answer(net: nn.Module) -> Tensor:
    actual: Tensor = net.eval()(*inputs())
    return actual


def base_weights(net: MMJiT) -> dict[str, Tensor]:
    return {
        name.replace(".base_layer.", "."): value.detach().clone()
        for name, value in net.canonical_parameters().items()
        if ".lora_" not in name
    }


def losses(trainer: Trainer, num_steps: int) -> list[float]:
    source = trainer.source.read(num_steps)
    return [trainer.train_step(batch) for batch in source]


def test_new_adapters_change_no_bit_of_the_output(base: Path, tmp_path: Path) -> None:
    trainer = Trainer(lora_recipe(base), tmp_path)
    plain = build_network(load_checkpoint(base))
    assert torch.equal(answer(trainer.net), answer(plain))
    pairs = adapter_parameters(trainer.net)
    assert all(value.any() == name.endswith("A.weight") for name, value in pairs.items())
    assert {name.partition(".lora_")[0] for name in pairs} == {
        name
        for name in linear_modules(TINY_MODEL)
        if "blocks." in name
        and not name.startswith(("double_blocks.1.txt_a", "double_blocks.1.txt_m"))
    }


def test_adapters_alone_are_trained(base: Path, tmp_path: Path) -> None:
    trainer = Trainer(lora_recipe(base), tmp_path)
    stored = {n: torch.from_numpy(v) for n, v in load_checkpoint(base).tensors.items()}
    first = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    losses(trainer, 2)
    weights = base_weights(trainer.net)
    assert weights.keys() == stored.keys()
    assert all(torch.equal(weights[name], value) for name, value in stored.items())
    assert [n for n, value in trainer.parameters.items() if torch.equal(value, first[n])] == []
    learning = {name for name, value in trainer.net.named_parameters() if value.requires_grad}
    assert len(learning) == len(first) == len(trainer.ema.tensors)
    assert all(".lora_" in name for name in learning)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls_on_one_batch(base: Path, tmp_path: Path, precision: str) -> None:
    recipe = lora_recipe(base, precision=precision, lora={"targets": ["double_blocks"]})
    trainer = Trainer(recipe, tmp_path)
    data = step_data(recipe, 0)
    actual = []
    for _ in range(30):
        # The same draws each time.
        trainer.step = 0
        actual.append(trainer.train_step(data))
    # measured 0.56 in both
    assert actual[-1] < 0.75 * actual[0]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from minit2i_deploy.training.lora import adapter_folder as adapter
from tests.training.lora.test_lora import lora_recipe
from minit2i_deploy.training.trainer import Trainer

save, calls = adapter.save_file, []

def save_or_die(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*arguments)

adapter.save_file = save_or_die
Trainer(lora_recipe(Path(sys.argv[2])), Path(sys.argv[3])).run()
"""


def test_a_run_killed_while_it_writes_an_adapter_continues(
    base: Path, straight: Path, tmp_path: Path, repository: Path
) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-c", KILLED, str(repository), str(base), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in list_checkpoints(folder)] == ["step-000003"]
    last = Trainer(lora_recipe(base), folder).run()
    assert_same_state(last, straight / "step-000006")
    name = "adapter_model.safetensors"
    assert (last / name).read_bytes() == (straight / "step-000006" / name).read_bytes()
    assert log_of(folder) == log_of(straight)
    assert list(folder.glob(".*")) == []


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_run_stopped_and_resumed_is_the_same_run(
    base: Path, tmp_path: Path, dropout: float
) -> None:
    recipe = lora_recipe(base, lora={"dropout": dropout})
    whole = Trainer(recipe, tmp_path / "whole")
    expected = losses(whole, 6)
    whole.save()
    first = Trainer(recipe, tmp_path / "run")
    actual = losses(first, 3)
    first.save()
    # Another run in between draws from torch's own generator.
    torch.rand(5)
    second = Trainer(recipe, tmp_path / "run")
    assert second.step == 3
    assert actual + losses(second, 3) == expected
    second.save()
    assert_same_state(tmp_path / "run" / "step-000006", tmp_path / "whole" / "step-000006")


def test_dropout_drops_while_it_learns_alone(base: Path, tmp_path: Path) -> None:
    plain = losses(Trainer(lora_recipe(base), tmp_path / "plain"), 3)
    trainer = Trainer(lora_recipe(base, lora={"dropout": 0.5}), tmp_path / "dropped")
    assert losses(trainer, 3)[2] != plain[2]
    assert torch.equal(answer(trainer.net), answer(trainer.net))


def test_a_run_leaves_an_adapter_in_every_checkpoint(straight: Path, base: Path) -> None:
    assert [path.name for path in list_checkpoints(straight)] == ["step-000003", "step-000006"]
    for path in list_checkpoints(straight):
        assert sorted(file.name for file in path.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "checkpoint.json",
            "ema.safetensors",
            "model.safetensors",
            "optimizer.pt",
        ]
    header = json.loads((straight / "step-000006" / "checkpoint.json").read_text("utf-8"))
    assert header["base_sha256"] == load_checkpoint(base).report.sha256
    with Image.open(straight / "samples" / "step-000006.png") as image:
        assert image.size >= (8 * 16, 6 * 16)
    assert 0 <= log_of(straight)[-1]["score"] <= 1


def test_the_adapter_merged_is_the_network_that_learned(
    straight: Path, base: Path, tmp_path: Path
) -> None:
    last = straight / "step-000006"
    merged = load_checkpoint(base, lora=last)
    assert [item.scale for item in merged.report.adapters] == [1.5]
    trainer = Trainer(lora_recipe(base), straight)
    with torch.no_grad():
        for name, value in trainer.parameters.items():
            value.copy_(trainer.ema.tensors[name])
    expected, plain = answer(trainer.net), answer(build_network(load_checkpoint(base)))
    assert (expected - plain).abs().max() > 0.05
    # measured 6e-7 on outputs up to 1.9
    assert (answer(build_network(merged)) - expected).abs().max() < 2e-6
    deployed = trainer.objective.deployable_weights(trainer.ema.tensors)
    assert deployed.keys() == merged.tensors.keys()
    # measured 0: the same order of operations
    worst = max(np.abs(deployed[n].numpy() - v).max() for n, v in merged.tensors.items())
    assert worst <= 1e-6


class Tree(nn.Module):
    """The official model's linear layers, by their names in it."""

    def __init__(self, base: Path) -> None:
        super().__init__()
        weights = load_checkpoint(base).tensors
        for name, (num_out, num_in) in linear_modules(TINY_MODEL).items():
            place: nn.Module = self
            *path, leaf = f"model.net.{name}".split(".")
            for part in path:
                if part not in dict(place.named_children()):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            layer = nn.Linear(num_in, num_out, bias=False)
            layer.weight.data = torch.from_numpy(weights[f"{name}.weight"]).clone()
            place.add_module(leaf, layer)


def test_peft_reads_the_adapter_for_the_official_model(straight: Path, base: Path) -> None:
    last = straight / "step-000006"
    model = peft.PeftModel.from_pretrained(Tree(base), str(last)).merge_and_unload()
    expected = load_checkpoint(base, lora=last).tensors
    actual = {name.removeprefix("model.net."): v for name, v in model.named_parameters()}
    assert actual.keys() == {f"{name}.weight" for name in linear_modules(TINY_MODEL)}
    # measured 0
    assert all(np.abs(v.detach().numpy() - expected[n]).max() <= 1e-6 for n, v in actual.items())


def test_another_base_is_refused_everywhere(straight: Path, base: Path, tmp_path: Path) -> None:
    other = tiny_teacher(tmp_path / "other", seed=5)
    with pytest.raises(CheckpointError, match=r"an adapter for another base than .* sha256"):
        load_checkpoint(other, lora=straight / "step-000006")
    with pytest.raises(CheckpointError, match="an adapter for another base than"):
        load_checkpoint(base, ema=False, lora=straight / "step-000006")
    with pytest.raises(TrainingError, match=r"was trained on another base than lora\.base"):
        Trainer(lora_recipe(other), straight)


def test_another_network_than_the_base_is_refused(base: Path, tmp_path: Path) -> None:
    model = type(TINY_MODEL)(**TINY_MODEL.to_dict() | {"pca_channels": 16})
    with pytest.raises(TrainingError, match=r"another network \(model.pca_channels is 8"):
        Trainer(lora_recipe(base, model=model), tmp_path)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 8}, "written with lora.rank 4, the recipe has 8"),
        ({"alpha": 4.0}, "written with lora.alpha 6.0, the recipe has 4.0"),
        ({"targets": ["double_blocks"]}, "written with lora.targets"),
    ],
)
def test_another_adapter_is_not_continued(
    straight: Path, base: Path, lora: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        Trainer(lora_recipe(base, lora=lora), straight)
    with pytest.raises(TrainingError, match="format 'minit2i-lora-training'"):
        Trainer(tiny_recipe(), straight)


def test_an_adapter_is_no_base(straight: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a LoRA adapter; give the base checkpoint here"):
        load_checkpoint(straight / "step-000006")
    with pytest.raises(UsageError, match="of an adapter; use release_adapter"):
        release_checkpoint(straight / "step-000006", tmp_path / "shipped")


def test_an_adapter_ships_in_half_precision(straight: Path, base: Path, tmp_path: Path) -> None:
    last, target = straight / "step-000006", tmp_path / "shipped"
    release_adapter(last, target, notes={"score": 0.5})
    stored = load_file(target / "adapter_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    message = json.loads((target / "adapter.json").read_text("utf-8"))
    assert message["score"] == 0.5 and message["recipe"]["lora"]["base"] == base.name
    whole, rounded = (load_checkpoint(base, lora=f).tensors for f in (last, target))
    # measured 1.7e-5: half precision's 11 bits of two factors
    worst = max(float(np.abs(whole[name] - rounded[name]).max()) for name in whole)
    assert 0 < worst < 1e-4
    with pytest.raises(UsageError, match="precision is 'int8'"):
        release_adapter(last, tmp_path / "int8", precision="int8")
    assert not (tmp_path / "int8").exists()


def test_what_a_image_costs_is_what_is_counted(base: Path, tmp_path: Path) -> None:
    recipe = lora_recipe(base, lora={"rank": 16})
    trainer = Trainer(recipe, tmp_path)
    data = step_data(recipe, 0)
    context, mask = trainer.text(data.captions)
    images = torch.zeros(4, 3, 16, 16)
    batch = Batch(
        images=images, context=context, mask=mask, captions=data.captions, positions=range(4)
    )
    with FlopCounterMode(display=False) as counter:
        trainer.objective.loss(trainer.net, batch, 0)[0].backward()
    # measured 1.085 of the count: nothing flows back into what stands before the first pair
    ratio = trainer.objective.image_flops * len(images) / counter.get_total_flops()
    assert 1 <= ratio < 1.12


def test_from_a_recipe_to_a_image(tmp_path: Path, base: Path, repository: Path) -> None:
    recipe = repository / "training" / "recipes" / "demo-lora.yaml"
    small = ["steps=2", "batch=2", "model.image_size=16", "model.hidden_size=32"]
    small += ["model.num_heads=2", "model.head_dim=16", "model.depth_double=2"]
    small += ["model.pca_channels=8", f"lora.base={base}", "compile=false", "sample_steps=1"]
    small += ["checkpoint_every=2", "data.workers=0"]
    last = train(recipe, tmp_path / "run", small)
    assert state_of(last)
    arguments = ["export", str(base), str(tmp_path / "bundle"), "--lora", str(last)]
    assert main([*arguments, "--text-encoder", str(ASSETS / "text_encoder")]) == 0
    bundle = minit2i_deploy.Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.provenance.lora_sha256 is not None
    table = minit2i_deploy.solver_table("euler", steps=2)
    with open_runtime(bundle, "onnxruntime") as runtime:
        result = generate(bundle, runtime, "a cyan circle", seed=7, table=table, guidance=2.5)
    assert result.images[0].size == (16, 16)
