"""The shipped adapter: it teaches the shipped demo model a colour, and fits no other model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import minit2i_deploy
from minit2i_deploy.checkpoints import Checkpoint, load_checkpoint
from minit2i_deploy.errors import CheckpointError
from minit2i_deploy.evaluation.shapes import NOVEL_KINDS, Requirement, Spec, judge
from minit2i_deploy.io.images import to_uint8
from minit2i_deploy.model.build import build_network
from minit2i_deploy.model.loop import run_table
from minit2i_deploy.model.step import Step
from minit2i_deploy.solvers.noise import standard_noise
from minit2i_deploy.solvers.table import solver_table
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.objectives.flow_matching_loss import NOISE_SCALE
from minit2i_deploy.training.recipe.load import load_recipe
from tests.helpers.training_runs import tiny_teacher

ASSETS = Path(minit2i_deploy.__file__).parent / "demo" / "assets"
SHAPES = ("circle", "square", "triangle", "cross") * 2


@torch.no_grad()
def num_right(checkpoint: Checkpoint) -> int:
    """Of two pictures of each shape in cyan."""
    net, config = build_network(checkpoint), checkpoint.config
    folders = (ASSETS / "text_encoder", ASSETS / "tokenizer")
    text = CaptionEncoder(*folders, config.prompt_length, config.txt_input_size)
    context, mask = text([f"a cyan {shape}" for shape in SHAPES])
    tokens = torch.stack([net.text_adapter(context, m) for m in (mask, torch.zeros_like(mask))])
    noise = np.stack([standard_noise(i, (3, 64, 64)) for i in range(len(SHAPES))])
    x = torch.from_numpy(noise) * NOISE_SCALE
    for state, _ in run_table(
        Step(net.denoiser), x, tokens, solver_table("dpmpp2m", steps=20), 2.5
    ):
        x = state
    specs = [
        Spec(kind="novel_colour", required=(Requirement(shape=shape, colour="cyan"),))
        for shape in SHAPES
    ]
    images = to_uint8(x.numpy())
    return sum(judge(image, spec).correct for image, spec in zip(images, specs, strict=True))


def test_it_teaches_the_shipped_model_a_colour() -> None:
    assert num_right(load_checkpoint(ASSETS / "model")) == 0
    # measured 8 of 8
    assert num_right(load_checkpoint(ASSETS / "model", lora=ASSETS / "lora")) >= 7


def test_it_fits_no_other_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another base"):
        load_checkpoint(tiny_teacher(tmp_path), lora=ASSETS / "lora")


def test_it_is_what_the_shipped_recipe_makes(repository: Path) -> None:
    recipe = load_recipe(repository / "training" / "recipes" / "demo-lora.yaml")
    message = json.loads((ASSETS / "lora" / "adapter.json").read_text("utf-8"))
    assert message["step"] == recipe.steps
    assert recipe.lora is not None
    assert message["recipe"]["lora"] == recipe.lora.to_dict() | {"base": "model"}
    ours = recipe.to_dict()
    named = ("kind_weights", "batch", "lr", "warmup_steps", "decay_steps", "ema_decay", "seed")
    assert all(message["recipe"][name] == ours[name] for name in named)
    kinds = message["shapes_score"]["kinds"]
    assert {*NOVEL_KINDS} < set(kinds)
    size = sum(file.stat().st_size for file in (ASSETS / "lora").iterdir())
    assert size < 1_000_000
