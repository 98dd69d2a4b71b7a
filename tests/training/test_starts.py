"""The weights that recipes start from: complete, small, and of the recipe that made them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np

from minit2i_deploy.checkpoints import load_checkpoint
from minit2i_deploy.training.recipe.load import load_recipe
from minit2i_deploy.training.recipe.paths import find_recipe_file

MAX_BYTES = 12e6
# The last command of each, as docs/measurements/demo_model.md has it.
COMMAND = re.compile(r"^minit2i (?:train|distill) [^\n]*(?:\n +[^\n]*)*", re.MULTILINE)


def last_command(repository: Path, recipe: str) -> list[str]:
    text = (repository / "docs" / "measurements" / "demo_model.md").read_text(encoding="utf-8")
    text = text[text.index("## The next base") : text.index("## How it was made")]
    commands = [shlex.split(found.replace("\\\n", " ")) for found in COMMAND.findall(text)]
    return [words for words in commands if words[2] == recipe][-1]


def test_each_start_is_of_its_recipe(repository: Path) -> None:
    folders = [path for path in (repository / "training" / "starts").iterdir() if path.is_dir()]
    assert {folder.name for folder in folders} == {"demo-finish", "demo-student-finish"}
    for folder in folders:
        _, _, name, _, _, *overrides = last_command(repository, folder.name)
        recipe = load_recipe(find_recipe_file(Path(name)), overrides)
        header = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        assert header["step"] == recipe.steps
        expected = recipe.to_dict()
        for key in ("kind_weights", "time_mean", "time_std", "seed", "lr", "decay_steps", "batch"):
            assert header["recipe"][key] == expected[key], key
        checkpoint = load_checkpoint(folder)
        assert checkpoint.config == recipe.model
        assert all(np.isfinite(value).all() for value in checkpoint.tensors.values())
        assert sum(file.stat().st_size for file in folder.iterdir()) <= MAX_BYTES
