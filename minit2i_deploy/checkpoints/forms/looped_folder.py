"""Looped-DiT's transformer folder as its diffusers port saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.checkpoint import Checkpoint
from minit2i_deploy.checkpoints.containers.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.form import (
    ReadOptions,
    check_prompt_length,
    check_single_weights,
    read_weights,
)
from minit2i_deploy.checkpoints.forms.huggingface import HuggingFaceForm, weight_files
from minit2i_deploy.checkpoints.forms.looped_config import MARK, config_from_looped, looped_rule
from minit2i_deploy.checkpoints.forms.official_config import PUBLISHED_WEIGHTS
from minit2i_deploy.checkpoints.json_file import read_json

_INDEX: Final = "model_index.json"


class LoopedFolderForm(HuggingFaceForm):
    """config.json with a loop beside safetensors, or one safetensors file of it."""

    description = "a Looped-DiT diffusers folder"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        """What the parent recognizes, where the configuration has a loop."""
        if not super().sniff(path, head):
            return False
        folder = path if head is None else path.parent
        return MARK in read_json(folder / "config.json")

    def refusal(self, path: Path, head: bytes | None) -> str | None:
        """None: the parent's form says it."""
        return None

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read the weights under the configuration beside them."""
        folder, files = weight_files(path)
        index, values = _pipeline(folder), read_json(folder / "config.json")
        length = index.get("prompt_length", options.prompt_length)
        config = config_from_looped(values, length, str(folder / "config.json"))
        check_prompt_length(path, options, config)
        check_single_weights(path, options)
        return read_weights(
            SafetensorsFiles(files),
            looped_rule,
            config,
            form="looped-folder",
            path=path,
            weights=PUBLISHED_WEIGHTS,
            files=files,
            text_encoder=values.get("text_encoder_name", index.get("text_encoder_name")),
        )


def _pipeline(folder: Path) -> dict[str, Any]:
    """The pipeline's settings around a transformer folder, if it is inside one."""
    path = folder.parent / _INDEX
    return read_json(path) if path.is_file() else {}
