"""Training checkpoints of this package: checkpoint.json beside safetensors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.assemble import Drop, Target, canonical_target
from minit2i_deploy.checkpoints.checkpoint import Checkpoint, Dropped
from minit2i_deploy.checkpoints.containers.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.form import (
    NOT_SELECTED,
    Form,
    ReadOptions,
    check_prompt_length,
    read_weights,
    select_average,
    step_of,
)
from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.checkpoints.text_identity import recorded_identity
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError
from minit2i_deploy.solvers.mean_flow import RELEASED, StudentSettings

_FORMAT: Final = "minit2i-training"
_VERSION: Final = 1
# Key of a student's conditions in checkpoint.json.
_CONDITIONS: Final = "told"


class TrainingForm(Form):
    """What this package's trainer writes."""

    description = "a minit2i training checkpoint"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        """A folder whose checkpoint.json names the format."""
        description = path / "checkpoint.json"
        if head is not None or not description.is_file():
            return False
        return bool(read_json(description).get("format") == _FORMAT)

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read the averaged or the online weights."""
        description = path / "checkpoint.json"
        values = read_json(description)
        config = _read_config(values, description)
        check_prompt_length(path, options, config)
        recipe = values.get("recipe")
        decay = _ema_name(recipe) if isinstance(recipe, dict) else ""
        use_average = select_average(path, options, decay)
        files = [path / "ema.safetensors", path / "model.safetensors"]
        file, other = files if use_average else reversed(files)
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; copy the complete checkpoint folder again")
        container = SafetensorsFiles([file])
        count = len(container.names)
        excluded = Dropped(what=other.stem, num_tensors=count, reason=NOT_SELECTED)
        checkpoint = read_weights(
            container,
            canonical_rule,
            config,
            form=_FORMAT,
            path=path,
            weights=f"EMA {decay}".rstrip() if use_average else "online",
            files=[file],
            step=step_of(values),
            dropped=[excluded] if other.is_file() else [],
        )
        conditions = _read_conditions(values.get(_CONDITIONS), description)
        report = dataclasses.replace(checkpoint.report, text_identity=recorded_identity(path))
        return dataclasses.replace(checkpoint, report=report, conditions=conditions)


def canonical_rule(name: str) -> Target | Drop | None:
    """``double_blocks.0.img_qkv.weight``: the names are canonical already."""
    return canonical_target(name)


def _read_config(values: dict[str, Any], path: Path) -> ModelConfig:
    if values.get("version") != _VERSION or not isinstance(values.get("config"), dict):
        raise CheckpointError(
            f"{path}: version {values.get('version')!r}, expected {_VERSION} with a config; read "
            "it with the release of minit2i-deploy that wrote it"
        )
    try:
        return ModelConfig.from_dict(values["config"])
    except (CheckpointError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_conditions(values: Any, path: Path) -> StudentSettings | None:
    """The conditions a student samples best with, where its checkpoint says."""
    if values is None:
        return None
    numbers = isinstance(values, dict) and values.keys() == RELEASED.keys()
    # Not isinstance, which takes true for a number.
    if not numbers or not all(type(value) in (int, float) for value in values.values()):
        raise CheckpointError(
            f"{path}: {_CONDITIONS} is {values!r}, expected numbers for {', '.join(RELEASED)}"
        )
    if not 1 <= values["omega"] < math.inf or not 0 <= values["t_min"] <= values["t_max"] <= 1:
        raise CheckpointError(
            f"{path}: {_CONDITIONS} is {values!r}, expected omega of 1 or more and "
            "0 <= t_min <= t_max <= 1"
        )
    omega, t_min, t_max = (float(values[name]) for name in ("omega", "t_min", "t_max"))
    return StudentSettings(omega=omega, t_min=t_min, t_max=t_max)


def _ema_name(recipe: dict[str, Any]) -> str:
    """The average's half-life in thousands of images if it has one, else its decay."""
    halflife = recipe.get("ema_halflife_kimg")
    return f"{halflife:g}" if halflife else str(recipe.get("ema_decay", ""))
