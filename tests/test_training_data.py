"""Batches are a function of (seed, step) and hold nothing that is kept for judging."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from training_runs import tiny_recipe

from minit2i_deploy.demo.shapes import is_held_out, sample
from minit2i_deploy.training.data import ShapesBatches, batches, to_network_range

# Python 3.12 warns of any fork beside other threads; the worker draws with numpy alone.
FORK = "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    images, captions = ShapesBatches(tiny_recipe())[7]
    again, same = ShapesBatches(tiny_recipe())[7]
    assert images.shape == (4, 16, 16, 3) and images.dtype == torch.uint8 and len(captions) == 4
    assert torch.equal(images, again) and captions == same
    for other in (ShapesBatches(tiny_recipe())[8], ShapesBatches(tiny_recipe(seed=1))[7]):
        assert not torch.equal(images, other[0]) and captions != other[1]


def test_a_batch_is_the_generator_of_its_step_in_order() -> None:
    _, captions = ShapesBatches(tiny_recipe(seed=3))[11]
    rng = np.random.default_rng([1, 3, 11])
    assert captions == [sample(rng)[2] for _ in range(4)]


@pytest.mark.filterwarnings(FORK)
def test_the_worker_gives_the_same_batches_from_any_start() -> None:
    recipe = tiny_recipe(steps=5)
    straight = [ShapesBatches(recipe)[step] for step in range(2, 5)]
    for (images, captions), (wanted, texts) in zip(batches(recipe, 2), straight, strict=True):
        assert torch.equal(images, wanted) and captions == texts


def test_no_caption_is_held_out() -> None:
    data = ShapesBatches(tiny_recipe(batch=100))
    captions = [caption for step in range(20) for caption in data[step][1]]
    assert len(set(captions)) > 500
    assert not any(is_held_out(caption) for caption in captions)


def test_kinds_come_as_often_as_their_weights_say() -> None:
    data = ShapesBatches(tiny_recipe(batch=400, kind_weights={"counting": 3, "colours": 1}))
    captions = [caption for step in range(12) for caption in data[step][1]]
    share = sum("two" in c or "three" in c or "four" in c for c in captions) / len(captions)
    assert share == pytest.approx(0.75, abs=0.025)  # standard error 0.006


def test_pixels_reach_the_network_in_minus_one_to_one() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    values = to_network_range(images)
    assert values.shape == (1, 3, 16, 16) and values.dtype == torch.float32
    wanted = np.arange(256, dtype=np.float64) / 127.5 - 1
    error = np.abs(values[0, 1].reshape(-1).numpy() - wanted).max()
    assert error <= 1e-7  # measured 6.0e-8
    assert values.min() == -1 and values.max() == 1
