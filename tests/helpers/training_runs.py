"""A training run small enough for a test: one step takes milliseconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from minit2i_deploy.config import ModelConfig, StudentConfig
from minit2i_deploy.model.mmjit import MMJiT
from minit2i_deploy.training.checkpoint import TrainingState, save_checkpoint
from minit2i_deploy.training.data import Batches, DataBatch, to_network_range
from minit2i_deploy.training.initial_weights import initialize_weights
from minit2i_deploy.training.objectives.objective import Batch
from minit2i_deploy.training.recipe.data import DataRecipe
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.recipe.recipe import Recipe
from minit2i_deploy.training.trainer import Trainer

TINY_MODEL = ModelConfig(
    image_size=16,
    patch_size=8,
    hidden_size=32,
    num_heads=2,
    head_dim=16,
    depth_double=2,
    pca_channels=8,
    txt_input_size=128,
    prompt_length=20,
)


def tiny_recipe(**changes: Any) -> Recipe:
    """Six steps of a network of 60 thousand parameters on the shipped text encoder, in float32."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": TINY_MODEL,
        "text_encoder": "package:demo/assets/text_encoder",
        "tokenizer": "package:demo/assets/tokenizer",
        "steps": 6,
        "batch": 4,
        "lr": 1e-2,
        "warmup_steps": 2,
        "precision": "fp32",
        "optimizer": "muon",
        "checkpoint_every": 3,
        "sample_every": 0,
        "sample_steps": 1,
        # In this process, which is quicker for a few tiny batches.
        "data": DataRecipe(workers=0),
    }
    return Recipe(**values | changes)


TINY_STUDENT = dataclasses.replace(TINY_MODEL, student=StudentConfig())


def tiny_teacher(folder: Path, seed: int = 0) -> Path:
    """A checkpoint of an untrained base model whose final layer is not zero."""
    net = MMJiT(TINY_MODEL)
    initialize_weights(net, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    torch.nn.init.normal_(net.denoiser.final_layer.linear.weight, std=0.1, generator=generator)
    weights = {name: value.detach() for name, value in net.canonical_parameters().items()}
    online = {name: value + 1 for name, value in weights.items()}
    state = TrainingState(step=1, model=online, ema=weights, optimizer={})
    return save_checkpoint(folder, tiny_recipe(), state)


def tiny_student_recipe(teacher: Path, **changes: Any) -> Recipe:
    """``tiny_recipe`` as a Mean Flow distillation."""
    values = {
        "model": TINY_STUDENT,
        "distill": DistillRecipe(teacher=str(teacher)),
        "label_drop": 0.0,
        "ema_halflife_kimg": 0.01,
        "ema_rampup": 0.5,
    }
    return tiny_recipe(**values | changes)


def step_data(recipe: Recipe, step: int) -> DataBatch:
    """The whole batch of step number ``step``, counted from 0."""
    source = Batches(recipe)
    source.samples_seen = step * recipe.batch
    return next(source.read(1))


def state_of(checkpoint: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint, optimizer state included, under one set of names."""
    optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    tensors = {}
    for kind in ("model", "ema"):
        for name, value in load_file(checkpoint / f"{kind}.safetensors").items():
            tensors[f"{kind}.{name}"] = value
    for i, part in enumerate(optimizer["parts"]):
        for key, state in part["state"].items():
            tensors |= {f"optimizer.{i}.{key}.{name}": value for name, value in state.items()}
    return tensors


def assert_same_state(one: Path, other: Path) -> None:
    """To the last bit."""
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def wide_batch(trainer: Trainer, recipe: Recipe) -> Batch:
    """Data that no step of a short run draws, with the text encoder's output."""
    data = step_data(recipe, 1000)
    context, mask = trainer.text(data.captions)
    images = to_network_range(data.images)
    rows = range(recipe.batch)
    return Batch(images=images, context=context, mask=mask, captions=data.captions, positions=rows)


def assert_resumes(recipe: Recipe, folder: Path) -> None:
    """A run of three steps in one go and one that is stopped after the first are the same."""
    for name, stops in (("complete", (3,)), ("parts", (1, 3))):
        for stop in stops:
            trainer = Trainer(recipe, folder / name)
            for step in range(trainer.step, stop):
                trainer.train_step(step_data(recipe, step))
            trainer.save()
    assert_same_state(folder / "complete" / "step-000003", folder / "parts" / "step-000003")
