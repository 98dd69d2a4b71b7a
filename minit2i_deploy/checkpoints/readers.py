"""One reader for each form: container, configuration, rule, and the report's words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.assemble import Assembled, Rule, Target, assemble
from minit2i_deploy.checkpoints.checkpoint import Checkpoint, CheckpointReport, Dropped
from minit2i_deploy.checkpoints.container import Container, StateContainer
from minit2i_deploy.checkpoints.detect import MSGPACK, Found, read_json, weight_files
from minit2i_deploy.checkpoints.digest import sha256_of
from minit2i_deploy.checkpoints.flax_state import choose
from minit2i_deploy.checkpoints.infer import infer_config
from minit2i_deploy.checkpoints.msgpack_file import MsgpackFile
from minit2i_deploy.checkpoints.names import canonical_shapes
from minit2i_deploy.checkpoints.official_config import config_from_hub, config_from_training
from minit2i_deploy.checkpoints.orbax_folder import OrbaxFolder
from minit2i_deploy.checkpoints.rename import (
    canonical_rule,
    hub_rule,
    payload_rule,
    training_rule,
)
from minit2i_deploy.checkpoints.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.torch_file import StateDict, count_tensors, load_torch_file
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError, UsageError
from minit2i_deploy.solvers.mean_flow import RELEASED, StudentSettings

_TRAINING_VERSION: Final = 1
_NOT_ASKED: Final = "not the weights asked for"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Which weights, and the sizes that a Flax checkpoint does not carry."""

    ema: bool | str
    image_size: int | None
    prompt_length: int | None


def read_hub(found: Found, request: Request) -> Checkpoint:
    """The Hub release's transformer folder, or one safetensors file of it."""
    is_file = found.path.is_file()
    folder = found.path.parent if is_file else found.path
    files = [found.path] if is_file else _shards(folder)
    values = read_json(folder / "config.json")
    config = config_from_hub(values, str(folder / "config.json"))
    weights = _only_weights(found, request, config)
    assembled = _assemble(SafetensorsFiles(files), hub_rule, config, found)
    return _checkpoint(
        found.form, found.path, config, assembled, weights, files, text_encoder=values.get("llm")
    )


def read_torch(found: Found, request: Request) -> Checkpoint:
    """A file of torch.save: the converter's payload or the PyTorch port's training state."""
    content = load_torch_file(found.path)
    keys = set(content)
    if not isinstance(content.get("config"), dict):
        keys.discard("config")
    if {"config", "state_dict"} <= keys:
        return _read_payload(found, content, request)
    if {"config", "model", "ema"} <= keys:
        return _read_torch_training(found, content, request)
    raise CheckpointError(
        f"{found.path}: keys {sorted(map(str, content))[:6]}, but config and state_dict (a "
        "payload) or config, model and ema (a training state) are needed; give the file as the "
        "official code saved it"
    )


def _read_payload(found: Found, content: dict[str, Any], request: Request) -> Checkpoint:
    config = config_from_hub(content["config"], f"{found.path}: config")
    weights = _only_weights(found, request, config)
    state = StateDict(_mapping(content, "state_dict", found), str(found.path))
    assembled = _assemble(state, payload_rule, config, found)
    return _checkpoint(
        "payload",
        found.path,
        config,
        assembled,
        weights,
        [found.path],
        text_encoder=content["config"].get("llm"),
    )


def _read_torch_training(found: Found, content: dict[str, Any], request: Request) -> Checkpoint:
    values = content["config"]
    config = config_from_training(values, f"{found.path}: config")
    _check_sizes(found, request, config)
    decay = str(values.get("ema_decay"))
    key = _ema_or_online(found, request, decay)
    state = StateDict(_mapping(content, key, found), str(found.path))
    assembled = _assemble(state, training_rule, config, found)
    words = {"ema": f"EMA {decay}", "model": "online"}
    other = "model" if key == "ema" else "ema"
    left = [
        Dropped(what=words[other], num_tensors=count_tensors(content[other]), reason=_NOT_ASKED),
        Dropped(
            what="optimizer",
            num_tensors=count_tensors(content.get("optimizer")),
            reason="state of the training run",
        ),
    ]
    return _checkpoint(
        "torch-training",
        found.path,
        config,
        assembled,
        words[key],
        [found.path],
        step=_step(content),
        text_encoder=values.get("t5_name"),
        left=left,
    )


def read_ours(found: Found, request: Request) -> Checkpoint:
    """A training checkpoint of this package."""
    description = found.path / "checkpoint.json"
    values = read_json(description)
    if values.get("version") != _TRAINING_VERSION or not isinstance(values.get("config"), dict):
        raise CheckpointError(
            f"{description}: version {values.get('version')!r}, but {_TRAINING_VERSION} with a "
            "config is needed; read it with the release of minit2i-deploy that wrote it"
        )
    try:
        config = ModelConfig.from_dict(values["config"])
    except (CheckpointError, TypeError) as error:
        raise CheckpointError(f"{description}: {error}") from error
    _check_sizes(found, request, config)
    recipe = values.get("recipe")
    decay = _ema_name(recipe) if isinstance(recipe, dict) else ""
    key = _ema_or_online(found, request, decay)
    files = {"ema": found.path / "ema.safetensors", "model": found.path / "model.safetensors"}
    if not files[key].is_file():
        raise CheckpointError(f"{files[key]}: missing; copy the whole checkpoint folder again")
    container = SafetensorsFiles([files[key]])
    assembled = _assemble(container, canonical_rule, config, found)
    other = files["model" if key == "ema" else "ema"]
    checkpoint = _checkpoint(
        found.form,
        found.path,
        config,
        assembled,
        f"EMA {decay}".rstrip() if key == "ema" else "online",
        [files[key]],
        step=_step(values),
        left=[Dropped(what=other.stem, num_tensors=len(container.names), reason=_NOT_ASKED)]
        if other.is_file()
        else [],
    )
    return dataclasses.replace(checkpoint, told=_told(values.get("told"), description))


def _told(values: Any, where: Path) -> StudentSettings | None:
    """What a student is to be told, where its checkpoint says."""
    if values is None:
        return None
    good = isinstance(values, dict) and values.keys() == RELEASED.keys()
    if not good or not all(type(value) in (int, float) for value in values.values()):
        raise CheckpointError(
            f"{where}: told is {values!r}, but numbers for {', '.join(RELEASED)} are needed"
        )
    if not 1 <= values["omega"] < math.inf or not 0 <= values["t_min"] <= values["t_max"] <= 1:
        raise CheckpointError(
            f"{where}: told is {values!r}, but omega of 1 or more and 0 <= t_min <= t_max <= 1 "
            "are needed"
        )
    omega, t_min, t_max = (float(values[name]) for name in ("omega", "t_min", "t_max"))
    return StudentSettings(omega=omega, t_min=t_min, t_max=t_max)


def _ema_name(recipe: dict[str, Any]) -> str:
    """The average's half-life in thousands of pictures where it has one, or its decay."""
    halflife = recipe.get("ema_halflife_kimg")
    return f"{halflife:g}" if halflife else str(recipe.get("ema_decay", ""))


def read_flax(found: Found, request: Request) -> Checkpoint:
    """A Flax checkpoint, base model or few-step student, in either container."""
    container: StateContainer
    if found.form == MSGPACK:
        container, files = MsgpackFile(found.path), [found.path]
    else:
        container = OrbaxFolder(found.path)
        files = sorted(file for file in found.path.rglob("*") if file.is_file())
    where = str(found.path)
    choice = choose(container.names, request.ema, where)
    rule = choice.rule()
    shapes = {}
    for name in container.names:
        target = rule(name)
        if isinstance(target, Target):
            shape = container.leaf(name).shape
            turn = target.axes if target.axes and len(target.axes) == len(shape) else None
            shapes[target.name] = tuple(shape[axis] for axis in turn) if turn else shape
    config = infer_config(shapes, request.image_size, request.prompt_length, where)
    assembled = _assemble(container, rule, config, found)
    return _checkpoint(
        found.form, found.path, config, assembled, choice.weights, files, step=container.step()
    )


def _assemble(container: Container, rule: Rule, config: ModelConfig, found: Found) -> Assembled:
    return assemble(container, rule, canonical_shapes(config), str(found.path))


def _checkpoint(
    form: str,
    path: Path,
    config: ModelConfig,
    assembled: Assembled,
    weights: str,
    files: Sequence[Path],
    *,
    step: int | None = None,
    text_encoder: str | None = None,
    left: Sequence[Dropped] = (),
) -> Checkpoint:
    report = CheckpointReport(
        form=form,
        path=str(path),
        weights=weights,
        sha256=sha256_of(files, path if path.is_dir() else path.parent),
        dtypes=assembled.dtypes,
        num_parameters=sum(tensor.size for tensor in assembled.tensors.values()),
        step=step,
        text_encoder=text_encoder,
        dropped=(*assembled.dropped, *left),
    )
    return Checkpoint(config=config, tensors=assembled.tensors, report=report)


def _shards(folder: Path) -> list[Path]:
    """The one weight file of a folder, or those that its index names."""
    files = weight_files(folder)
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _indexed(indices[0])
    if len(files) != 1:
        shown = ", ".join(file.name for file in files)
        raise CheckpointError(
            f"{folder}: {len(files)} weight files ({shown}) without one index; "
            "give the path of one of them"
        )
    return files


def _indexed(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no weight_map; copy the folder again")
    files = []
    for name in sorted(set(map(str, weight_map.values()))):
        file = index.parent / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(
                f"{index}: names the shard {name!r}, which is no file beside it; "
                "copy the folder again"
            )
        files.append(file)
    return files


def _only_weights(found: Found, request: Request, config: ModelConfig) -> str:
    _check_sizes(found, request, config)
    if request.ema is not True:
        raise UsageError(
            f"{found.path}: ema={request.ema!r}, but this form holds one set of weights, the "
            "published ones; leave ema out"
        )
    return "the only ones in the file, as published"


def _ema_or_online(found: Found, request: Request, decay: str) -> str:
    if isinstance(request.ema, str) and request.ema != decay:
        raise UsageError(
            f"{found.path}: no EMA {request.ema!r}; this checkpoint has {decay or 'an unnamed one'}"
        )
    return "ema" if request.ema else "model"


def _check_sizes(found: Found, request: Request, config: ModelConfig) -> None:
    for name in ("image_size", "prompt_length"):
        given, own = getattr(request, name), getattr(config, name)
        if given is not None and given != own:
            raise UsageError(
                f"{found.path}: {name}={given}, but the checkpoint's configuration says {own}; "
                f"leave {name} out"
            )


def _mapping(content: dict[str, Any], key: str, found: Found) -> dict[str, Any]:
    value = content[key]
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{found.path}: {key} is {type(value).__name__}, but a dictionary of tensors is "
            "needed; give the file as the official code saved it"
        )
    return value


def _step(values: dict[str, Any]) -> int | None:
    step = values.get("step")
    return step if isinstance(step, int) else None
