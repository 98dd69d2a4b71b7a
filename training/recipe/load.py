"""Recipes from YAML: reading, relative paths and ``key=value`` overrides."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError, UsageError, require
from minit2i_deploy.training.recipe.data import SHAPES, parse_data, resolve_data_paths
from minit2i_deploy.training.recipe.distillation import DistillRecipe
from minit2i_deploy.training.recipe.lora import LoraRecipe
from minit2i_deploy.training.recipe.parsing import (
    check_keys,
    parse_number,
    parse_section,
    set_override,
)
from minit2i_deploy.training.recipe.paths import find_recipe_file, resolve_relative
from minit2i_deploy.training.recipe.recipe import Recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``key=value`` overrides (``model.depth_double=2`` reaches inside).

    Relative folders in the file are resolved from the file's own folder. A bare name is that of a
    shipped recipe.

    Raises:
        UsageError: the file cannot be read, a key is unknown (the nearest name is given), or a
            value is outside its range.
    """
    path = find_recipe_file(path)
    values = _read_yaml(path)
    _resolve_paths(values, path.parent)
    for text in overrides:
        _apply_override(values, text)
    try:
        return recipe_from_dict(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    yaml = require("yaml", "train")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: cannot be read as a recipe: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys to values")
    return values


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    for holder, key in (
        (values, "text_encoder"),
        (values, "tokenizer"),
        (values, "start_from"),
        (values.get("distill"), "teacher"),
        (values.get("distill"), "former_teacher"),
        (values.get("lora"), "base"),
    ):
        if isinstance(holder, dict) and holder.get(key) and isinstance(holder[key], str):
            holder[key] = resolve_relative(holder[key], folder)
    if "data" in values:
        values["data"] = resolve_data_paths(values["data"], folder)


def _apply_override(values: dict[str, Any], text: str) -> None:
    yaml = require("yaml", "train")
    key, separator, value = text.partition("=")
    if not separator:
        raise UsageError(f"override {text!r} must have the form key=value")
    try:
        set_override(values, key.split("."), yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise UsageError(f"override {text!r}: {_one_line(error)}") from error


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build from ``Recipe.to_dict``'s form.

    Raises:
        UsageError: a key is unknown or missing, or a value is outside its range.
    """
    model = values.get("model")
    check_keys("", values, dataclasses.fields(Recipe))
    if not isinstance(model, Mapping):
        raise UsageError(f"recipe: model is {model!r}, but it must be a mapping of its own keys")
    check_keys("model.", model, dataclasses.fields(ModelConfig))
    try:
        config = ModelConfig.from_dict(model)
        if config.image_width is not None:
            raise CheckpointError("image_width is set, but training crops squares; omit it")
    except (TypeError, CheckpointError) as error:
        text = str(error).removeprefix("config: ").replace("fix config.json", "fix the recipe")
        raise UsageError(f"recipe: model: {text}") from error
    parts = {
        "model": config,
        "data": parse_data(values.get("data", SHAPES)),
        "distill": parse_section(DistillRecipe, "distill", values.get("distill")),
        "lora": parse_section(LoraRecipe, "lora", values.get("lora")),
    }
    numbers = {key: parse_number(Recipe, key, value) for key, value in values.items()}
    return Recipe(**numbers | parts)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
