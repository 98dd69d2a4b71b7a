"""The weights that recipes start from: complete, small, and of the recipe that made them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.training.recipe.load import load_recipe
from minit2i_deploy.training.recipe.paths import find_recipe_file

MAX_BYTES = 12e6


def test_each_start_is_of_its_recipe(repository: Path) -> None:
    folders = [path for path in (repository / "training" / "starts").iterdir() if path.is_dir()]
    assert {folder.name for folder in folders} == {"demo-finish"}
    for folder in folders:
        recipe = load_recipe(find_recipe_file(Path(folder.name)))
        header = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        assert header["step"] == recipe.steps
        assert header["recipe"]["kind_weights"] == dict(recipe.kind_weights)
        assert (header["recipe"]["time_mean"], header["recipe"]["time_std"]) == (
            recipe.time_mean,
            recipe.time_std,
        )
        checkpoint = load_checkpoint(folder)
        assert checkpoint.config == recipe.model
        assert all(np.isfinite(value).all() for value in checkpoint.tensors.values())
        assert sum(file.stat().st_size for file in folder.iterdir()) <= MAX_BYTES
