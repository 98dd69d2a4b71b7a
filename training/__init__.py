"""Training: data, losses, the loop and recipes that make MiniT2I checkpoints (needs torch)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from minit2i_deploy.errors import UsageError, require

if TYPE_CHECKING:
    from minit2i_deploy.training.small_text_encoder import TextEncoderRecipe

__all__ = ["distill", "make_text_encoder", "resolved_recipe", "train"]


def train(recipe_path: Path, folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Train from a recipe, or continue the run in the folder.

    Args:
        recipe_path: YAML file, whose keys are ``recipe.Recipe``'s, or the name of a shipped one.
        folder: receives checkpoints, sample grids, log.jsonl and recipe.json.
        overrides: ``key=value`` texts that replace the file's values, ``model.key=value`` inside.

    Returns:
        the last checkpoint's folder.

    Raises:
        UsageError: the recipe cannot be read, is a student's, a key is unknown or a value is out
            of range.
        TrainingError: the run cannot start, continue or be resumed.
        TrainingInterrupted: Ctrl-C or SIGTERM came; the state is saved.
        MissingDependencyError: the training extra is not installed.
    """
    return _run(recipe_path, folder, overrides, distill=False)


def distill(recipe_path: Path, folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Distill a base model to a few-step student, or continue such a run.

    Args:
        recipe_path: YAML file with ``distill``, which names the teacher.
        folder, overrides: as for ``train``.

    Returns:
        the last checkpoint's folder.

    Raises:
        UsageError: as from ``train``, or the recipe has no teacher.
        CheckpointError: the teacher cannot be read.
        TrainingError: as from ``train``, or the teacher is another network.
        MissingDependencyError: the training extra is not installed.
    """
    return _run(recipe_path, folder, overrides, distill=True)


def _run(recipe_path: Path, folder: Path, overrides: Sequence[str], *, distill: bool) -> Path:
    _require_libraries()
    from minit2i_deploy.training.recipe.load import load_recipe
    from minit2i_deploy.training.trainer import Trainer

    recipe = load_recipe(Path(recipe_path), overrides)
    if distill and recipe.distill is None:
        raise UsageError(f"{recipe_path}: has no distill; add distill.teacher or run minit2i train")
    if not distill and recipe.distill is not None:
        raise UsageError(f"{recipe_path}: has distill, a student's; run minit2i distill")
    return Trainer(recipe, Path(folder)).run()


def resolved_recipe(recipe_path: Path, overrides: Sequence[str] = ()) -> str:
    """The recipe with every value filled in, as YAML that is a recipe again.

    Raises:
        UsageError: as from ``train``.
        MissingDependencyError: the training extra is not installed.
    """
    yaml = require("yaml", "train")
    from minit2i_deploy.training.recipe.load import load_recipe

    values = load_recipe(Path(recipe_path), overrides).to_dict()
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def make_text_encoder(folder: Path, recipe: TextEncoderRecipe | None = None) -> float:
    """Make the shapes data's vocabulary and small T5 encoder.

    Args:
        folder: a new folder; receives tokenizer/ and text_encoder/, both or neither.
        recipe: sizes and training settings; None for the shipped encoder's.

    Returns:
        accuracy on masked tokens over the last tenth of the steps.

    Raises:
        UsageError: the folder exists and is not empty, or cannot be written.
        MissingDependencyError: the training extra is not installed.
    """
    _require_libraries()
    from minit2i_deploy.training import small_text_encoder

    return small_text_encoder.make_text_encoder(
        Path(folder), small_text_encoder.TextEncoderRecipe() if recipe is None else recipe
    )


def _require_libraries() -> None:
    for module in ("torch", "accelerate", "safetensors", "transformers"):
        require(module, "train")
