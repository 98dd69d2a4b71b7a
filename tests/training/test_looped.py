"""Looped-DiT trains by configuration: its loss, a run, and an adapter on its core."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.loop_config import LoopConfig
from minit2i_deploy.model import build_network
from minit2i_deploy.training.objectives.flow_matching_loss import flow_matching_loss
from minit2i_deploy.training.recipe.lora import LoraRecipe
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.trainer import Trainer
from tests.helpers.looped import looped_arrays, looped_checkpoint
from tests.helpers.training_runs import TINY_MODEL, tiny_recipe

LOOP = LoopConfig(pre=1, core=1, post=1, num_loops=2)
MODEL = dataclasses.replace(TINY_MODEL, depth_double=3, loop=LOOP)


def images(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def looped_recipe(**changes: object) -> Recipe:
    return tiny_recipe(model=MODEL, optimizer="adamw", steps=2, checkpoint_every=2, **changes)


def test_the_loss_is_that_of_its_own_code_without_deep_supervision() -> None:
    g = looped_arrays("loss")
    loss = flow_matching_loss(
        build_network(looped_checkpoint()),
        images(g["images"]),
        torch.from_numpy(g["context"]),
        torch.from_numpy(g["mask_after_drop"]),
        torch.from_numpy(g["t"]),
        images(g["noise_unit"]),
        noise_scale=float(g["noise_scale"]),
        a_min=0.05,
    )
    # Measured 1.0e-7.
    assert loss.item() == pytest.approx(float(g["loss_without_deep_supervision"]), rel=1e-5)


def test_a_run_and_an_adapter_on_its_core(tmp_path: Path) -> None:
    Trainer(looped_recipe(ema_decay=0.5), tmp_path / "run").run()
    checkpoint = load_checkpoint(tmp_path / "run", ema=False)
    assert checkpoint.config == MODEL
    base = load_checkpoint(tmp_path / "run").tensors
    adapter = LoraRecipe(base=str(tmp_path / "run"), rank=2, targets=("double_blocks.1",))
    Trainer(looped_recipe(lora=adapter, ema_decay=0.5), tmp_path / "lora").run()
    folder = next((tmp_path / "lora").glob("step-*"))
    merged = load_checkpoint(tmp_path / "run", lora=folder)
    changed = {n for n, v in merged.tensors.items() if not np.array_equal(v, base[n])}
    assert changed and all(name.startswith("double_blocks.1.") for name in changed)
