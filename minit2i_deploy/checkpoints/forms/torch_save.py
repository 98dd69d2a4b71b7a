"""Files of torch.save: the converter's payload, and training states of both torch codes."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.assemble import Drop, Rule, Target, canonical_target
from minit2i_deploy.checkpoints.checkpoint import Checkpoint, Dropped
from minit2i_deploy.checkpoints.containers.torch_file import (
    StateDict,
    count_tensors,
    load_torch_file,
)
from minit2i_deploy.checkpoints.form import (
    NOT_SELECTED,
    Form,
    ReadOptions,
    check_prompt_length,
    check_single_weights,
    read_weights,
    select_average,
    step_of,
    tensors_under,
)
from minit2i_deploy.checkpoints.forms.looped_config import (
    MARK,
    config_from_looped,
    looped_rule,
)
from minit2i_deploy.checkpoints.forms.official_config import (
    PUBLISHED_WEIGHTS,
    config_from_hub,
    config_from_training,
)
from minit2i_deploy.checkpoints.forms.training_names import training_rule
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError, UsageError

# How a pickle of protocol 2 to 5 begins.
_PICKLE_HEADS: Final = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))


class TorchSaveForm(Form):
    """A zip file of torch.save with the keys of a payload or of a training state."""

    description = "a payload or training .pt file"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        """A zip archive that holds a pickle where torch.save puts it."""
        return head is not None and head.startswith(b"PK\x03\x04") and _holds_pickle(path)

    def refusal(self, path: Path, head: bytes | None) -> str | None:
        """A pickle without the archive around it cannot be read safely."""
        if head is None or head[:2] not in _PICKLE_HEADS:
            return None
        return (
            "a bare pickle, which runs code when it is opened; refused, save it again with "
            "torch.save of torch 1.6 or later"
        )

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read the file by the keys in it."""
        content = load_torch_file(path)
        keys = set(content)
        # A file of other software may have anything under that key.
        if not isinstance(content.get("config"), dict):
            keys.discard("config")
        if {"config", "state_dict"} <= keys:
            return _read_payload(path, content, options)
        if {"config", "ema"} <= keys and MARK in content["config"]:
            return _read_looped(path, content, options)
        if {"config", "model", "ema"} <= keys:
            return _read_training(path, content, options)
        raise CheckpointError(
            f"{path}: keys {sorted(map(str, content))[:6]}, expected config and state_dict (a "
            "payload) or config, model and ema (a training state); give the file as the official "
            "code saved it"
        )


def payload_rule(name: str) -> Target | Drop | None:
    """``net.double_blocks.0.img_qkv.weight``, input of the official converter.

    Source: minit2i-torch diffusers/pipeline.py.
    """
    return canonical_target(name.removeprefix("net.")) if name.startswith("net.") else None


def _read_payload(path: Path, content: dict[str, Any], options: ReadOptions) -> Checkpoint:
    config = config_from_hub(content["config"], f"{path}: config")
    check_prompt_length(path, options, config)
    check_single_weights(path, options)
    return read_weights(
        StateDict(tensors_under(content, "state_dict", path), str(path)),
        payload_rule,
        config,
        form="payload",
        path=path,
        weights=PUBLISHED_WEIGHTS,
        files=[path],
        text_encoder=content["config"].get("llm"),
    )


def _read_training(path: Path, content: dict[str, Any], options: ReadOptions) -> Checkpoint:
    config = config_from_training(content["config"], f"{path}: config")
    return _read_state(path, content, options, _State("torch-training", config, training_rule))


def _read_looped(path: Path, content: dict[str, Any], options: ReadOptions) -> Checkpoint:
    config = config_from_looped(content["config"], options.prompt_length, f"{path}: config")
    return _read_state(path, content, options, _State("looped-training", config, looped_rule))


@dataclass(frozen=True, slots=True)
class _State:
    """What differs between the training states of the two codes."""

    form: str
    config: ModelConfig
    rule: Rule


def _read_state(
    path: Path, content: dict[str, Any], options: ReadOptions, state: _State
) -> Checkpoint:
    """The average or the online weights of a training state, which may lack the latter."""
    values = content["config"]
    check_prompt_length(path, options, state.config)
    decay = str(values.get("ema_decay"))
    key, other = ("ema", "model") if select_average(path, options, decay) else ("model", "ema")
    if key not in content:
        raise UsageError(f"{path}: holds no online weights, only EMA {decay}; omit ema")
    labels = {"ema": f"EMA {decay}", "model": "online"}
    counts = {name: count_tensors(content.get(name)) for name in (other, "optimizer")}
    reasons = {other: NOT_SELECTED, "optimizer": "state of the training run"}
    return read_weights(
        StateDict(tensors_under(content, key, path), str(path)),
        state.rule,
        state.config,
        form=state.form,
        path=path,
        weights=labels[key],
        files=[path],
        step=step_of(content),
        text_encoder=values.get("t5_name", values.get("text_encoder")),
        dropped=[
            Dropped(what=labels.get(name, name), num_tensors=count, reason=reasons[name])
            for name, count in counts.items()
            if name in content
        ],
    )


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        # A truncated archive has no list of names; the reader's error says what is wrong.
        return True
