"""Training checkpoints: a folder that is whole or not there.

    step-001000/
      checkpoint.json      format, version, step, config, recipe
      model.safetensors    online weights, canonical names, float32
      ema.safetensors      their moving average: what one deploys
      optimizer.pt         optimizer state, read with weights_only
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minit2i_deploy.errors import TrainingError
from minit2i_deploy.files import atomic_directory
from minit2i_deploy.training.recipe import Recipe

FORMAT, VERSION = "minit2i-training", 1


def save_checkpoint(
    folder: Path,
    step: int,
    recipe: Recipe,
    model: dict[str, Tensor],
    ema: dict[str, Tensor],
    optimizer: dict[str, Any],
) -> Path:
    """Write ``folder/step-NNNNNN`` atomically and drop all but the last ``keep_last``."""
    target = folder / f"step-{step:06d}"
    with atomic_directory(target, overwrite=True) as partial:
        save_file({k: v.detach().contiguous() for k, v in model.items()}, partial / "model.safetensors")
        save_file(ema, partial / "ema.safetensors")
        torch.save(optimizer, partial / "optimizer.pt")
        header = {
            "format": FORMAT,
            "version": VERSION,
            "step": step,
            "config": recipe.model.to_dict(),
            "recipe": recipe.to_dict(),
        }
        text = json.dumps(header, indent=2, sort_keys=True) + "\n"
        (partial / "checkpoint.json").write_text(text, encoding="utf-8")
    for old in checkpoints(folder)[: -recipe.keep_last]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / "checkpoint.json").is_file())


def load_training_state(
    path: Path, recipe: Recipe
) -> tuple[int, dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Read step, online weights, averages and optimizer state.

    Raises:
        TrainingError: the checkpoint is of another version or of another network.
    """
    header = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise TrainingError(
            f"{path}: format {header.get('format')!r} version {header.get('version')!r}, wanted "
            f"{FORMAT} {VERSION}; resume with the version that wrote it"
        )
    if header["config"] != recipe.model.to_dict():
        raise TrainingError(
            f"{path}: was written by another network than the recipe's; use another output folder"
        )
    optimizer = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
    model, ema = load_file(path / "model.safetensors"), load_file(path / "ema.safetensors")
    return int(header["step"]), model, ema, optimizer
