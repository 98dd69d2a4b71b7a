"""What an adapter is held to where a caption asks for nothing new: the base's own answers."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.errors import DataWarning
from minit2i_deploy.model.build import build_network
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.data import to_network_range
from minit2i_deploy.training.lora.flow_matching import LoraFlowMatching
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.objectives.prior_preservation import PriorPreservation
from minit2i_deploy.training.objectives.random_draws import draw_step
from minit2i_deploy.training.recipe.lora import LoraRecipe
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.training_runs import log_of, step_data, tiny_recipe, tiny_teacher

CPU = torch.device("cpu")
# Of the colours the tiny run's captions name, one for the word that is new to the base.
NEW = "red"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_teacher(tmp_path_factory.mktemp("base"))


def prior_recipe(base: Path, *words: str, **changes: object) -> Recipe:
    lora = LoraRecipe(base=str(base), rank=4, alpha=6.0, new_words=words)
    return tiny_recipe(**{"lora": lora, "optimizer": "adamw", "ema_decay": 0.5} | changes)


def prior(base: Path, *words: str) -> PriorPreservation:
    return PriorPreservation(load_checkpoint(base), prior_recipe(base, *words), CPU)


def batch_of(trainer: Trainer, step: int) -> Batch:
    data = step_data(trainer.recipe, step)
    context, mask = trainer.text(data.captions)
    return Batch(
        images=to_network_range(data.images),
        context=context,
        mask=mask,
        captions=data.captions,
        positions=range(trainer.recipe.batch),
    )


@pytest.mark.parametrize(
    ("caption", "new"),
    [
        ("a cyan circle", True),
        ("Cyan, and more", True),
        ("two SKS Dogs", False),
        ("a photo of a sks dog.", True),
        ("a sks  dog", False),
        ("cyanide", False),
        ("a cyan-blue square", True),
        ("an ocyan", False),
        ("a c++ book", True),
        ("", False),
    ],
)
def test_words_are_whole_ones_in_any_case(base: Path, caption: str, new: bool) -> None:
    actual = prior(base, "cyan", "sks dog", "c++")
    assert actual.mentions_new([caption]).tolist() == [new]


@torch.no_grad()
def test_what_is_target_is_the_image_or_what_the_base_says(base: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images, x = torch.randn(2, 4, 3, 16, 16, generator=generator).unbind(0)
    context = torch.randn(4, 20, 128, generator=generator)
    mask = torch.ones(4, 20)
    mask[1] = mask[3] = 0  # dropped captions, which make no difference
    new = torch.tensor([True, True, False, False])
    actual = prior(base, NEW).target(images, new, x, context, mask)
    message = build_network(load_checkpoint(base)).eval()(x, context, mask)
    assert torch.equal(actual[:2], images[:2]) and torch.equal(actual[2:], message[2:])


def test_the_loss_is_that_of_the_new_images_alone_at_first(base: Path, tmp_path: Path) -> None:
    """Until they have learned, adapters say what the base says."""
    trainer = Trainer(prior_recipe(base, NEW, batch=16), tmp_path)
    batch = batch_of(trainer, 0)
    actual = trainer.objective.loss(trainer.net, batch, 0)[0].item()
    draws = draw_step(trainer.recipe, 0, batch.mask, batch.positions)
    net = build_network(load_checkpoint(base)).eval()
    total, count = 0.0, 0
    for i, caption in enumerate(batch.captions):
        if NEW not in caption.split():
            continue
        t, image = float(draws.t[i]), batch.images[i].double()
        noisy = t * image + (1 - t) * 2.0 * draws.noise[i].double()
        with torch.no_grad():
            x0 = net(noisy[None].float(), batch.context[i : i + 1], draws.mask[i : i + 1])[0]
        total += float((((x0.double() - image) / max(1 - t, trainer.recipe.a_min)) ** 2).mean())
        count += 1
    assert 2 <= count <= 12
    # Measured 1.7e-7 off.
    assert actual == pytest.approx(total / 16, rel=1e-6)


def test_without_a_new_word_nothing_is_learned_with_a_warning(base: Path, tmp_path: Path) -> None:
    trainer = Trainer(prior_recipe(base, "purpel", batch=64, steps=20), tmp_path)
    with pytest.warns(
        DataWarning, match=r"none of the first 1000 captions .* \(purpel\); the adapter"
    ):
        trainer.run()
    assert all(not value.any() for name, value in trainer.parameters.items() if ".lora_B." in name)
    assert {line["loss"] for line in log_of(tmp_path) if "loss" in line} == {0.0}


def test_the_warning_comes_once_and_never_where_a_word_came(base: Path) -> None:
    actual = prior(base, "cyan")
    captions = ["a red circle"] * 600
    actual.mentions_new(captions)
    with pytest.warns(DataWarning):
        actual.mentions_new(captions)
    other = prior(base, "cyan")
    other.mentions_new(["a cyan circle"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            actual.mentions_new(captions)
            other.mentions_new(captions)


@torch.no_grad()
def drift(trainer: Trainer, base: Path) -> float:
    """How far the network has moved from the base on captions without the new word."""
    batch = batch_of(trainer, 900)
    known = [i for i, text in enumerate(batch.captions) if NEW not in text.split()]
    values = (0.7 * batch.images, batch.context, batch.mask)
    x, context, mask = (value[known] for value in values)
    nets: tuple[MMJiT, MMJiT] = (trainer.net, build_network(load_checkpoint(base)))
    message, expected = (net.eval()(x, context, mask) for net in nets)
    return float((message - expected).norm() / expected.norm())


def test_what_the_base_knows_is_kept(base: Path, tmp_path: Path) -> None:
    actual = {}
    for words in ((), (NEW,)):
        recipe = prior_recipe(base, *words, steps=60, batch=32)
        trainer = Trainer(recipe, tmp_path / str(len(words)))
        trainer.run()
        actual[words] = drift(trainer, base)
    # Measured 1.2 and 0.14.
    assert actual[()] > 4 * actual[(NEW,)] > 0


def test_its_pass_is_counted(base: Path, tmp_path: Path) -> None:
    trainer = Trainer(prior_recipe(base, NEW), tmp_path)
    batch = batch_of(trainer, 0)
    with FlopCounterMode(display=False) as counter:
        trainer.objective.loss(trainer.net, batch, 0)[0].backward()
    assert isinstance(trainer.objective, LoraFlowMatching)
    ratio = trainer.objective.image_flops * len(batch.images) / counter.get_total_flops()
    # Measured 1.114: nothing flows back into what stands before the first pair.
    assert 1 <= ratio < 1.15
