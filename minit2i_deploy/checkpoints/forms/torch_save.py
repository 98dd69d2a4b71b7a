"""Files of torch.save: the converter's payload and the PyTorch port's training state."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.assemble import Drop, Target, canonical_target
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
    check_single_weights,
    check_sizes,
    read_weights,
    select_average,
    step_of,
    tensors_under,
)
from minit2i_deploy.checkpoints.forms.official_config import (
    PUBLISHED_WEIGHTS,
    config_from_hub,
    config_from_training,
)
from minit2i_deploy.errors import CheckpointError

# How a pickle of protocol 2 to 5 begins.
_PICKLE_HEADS: Final = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_TRAINING_TOP: Final = {
    "mask_token": "mask_token",
    "img_embed": "img_embedder",
    "txt_embed": "txt_embedder",
    "t_embed": "t_embedder",
    "pooled_embed": "pooled_embedder",
    "txt_blocks": "txt_preamble_blocks",
    "blocks": "double_blocks",
    "final_norm": "final_layer.norm_final",
    "final": "final_layer.linear",
}
_TRAINING_BLOCK: Final = {
    "proj": "attn_proj",
    "img_proj": "img_attn_proj",
    "txt_proj": "txt_attn_proj",
}


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
        if not isinstance(content.get("config"), dict):
            keys.discard("config")
        if {"config", "state_dict"} <= keys:
            return _read_payload(path, content, options)
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


def training_rule(name: str) -> Target | Drop | None:
    """``blocks.0.img_qkv.weight``, the PyTorch port's trainer.

    Source: minit2i-torch mini_t2i/model.py.
    """
    top, *rest = name.split(".")
    if top not in _TRAINING_TOP:
        return None
    if top in ("txt_blocks", "blocks"):
        rest = [_TRAINING_BLOCK.get(part, part) for part in rest]
    return canonical_target(".".join([_TRAINING_TOP[top], *rest]))


def _read_payload(path: Path, content: dict[str, Any], options: ReadOptions) -> Checkpoint:
    config = config_from_hub(content["config"], f"{path}: config")
    check_sizes(path, options, config)
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
    values = content["config"]
    config = config_from_training(values, f"{path}: config")
    check_sizes(path, options, config)
    decay = str(values.get("ema_decay"))
    key, other = "ema", "model"
    if not select_average(path, options, decay):
        key, other = other, key
    labels = {"ema": f"EMA {decay}", "model": "online"}
    optimizer = count_tensors(content.get("optimizer"))
    return read_weights(
        StateDict(tensors_under(content, key, path), str(path)),
        training_rule,
        config,
        form="torch-training",
        path=path,
        weights=labels[key],
        files=[path],
        step=step_of(content),
        text_encoder=values.get("t5_name"),
        dropped=[
            Dropped(
                what=labels[other], num_tensors=count_tensors(content[other]), reason=NOT_SELECTED
            ),
            Dropped(what="optimizer", num_tensors=optimizer, reason="state of the training run"),
        ],
    )


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        # A truncated archive has no list of names; the reader's error says what is wrong.
        return True
