"""One safetensors file that has its configuration in its own header, as SushiUI saves it.

Its names are the Hub release's behind ``transformer.``; a text encoder may be in the same file.
Source: celll1/SushiUI, the single-file format of its MiniT2I support.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.assemble import Drop, Target
from minit2i_deploy.checkpoints.checkpoint import Checkpoint
from minit2i_deploy.checkpoints.containers.safetensors_file import SafetensorsFiles
from minit2i_deploy.checkpoints.form import (
    Form,
    ReadOptions,
    check_prompt_length,
    check_single_weights,
    read_weights,
)
from minit2i_deploy.checkpoints.forms.huggingface import hub_rule
from minit2i_deploy.checkpoints.forms.official_config import PUBLISHED_WEIGHTS, config_from_hub
from minit2i_deploy.errors import CheckpointError

_CONFIG: Final = "mmjit_config"
_MAX_HEADER_BYTES: Final = 2**27
# The header has what differs between the variants; the rest is the official code's default.
_DEFAULTS: Final[dict[str, Any]] = {
    "image_size": 512,
    "patch_size": 16,
    "in_channels": 3,
    "txt_input_size": 1024,
    "txt_preamble_depth": 2,
    "pca_channels": 128,
    "prompt_length": 256,
}
_NOISE_SCALE: Final = 2.0


class SingleFileForm(Form):
    """A safetensors file with ``mmjit_config`` in its header."""

    description = "one safetensors file with its configuration inside"

    def sniff(self, path: Path, head: bytes | None) -> bool:
        """A safetensors file whose header has the configuration."""
        return head is not None and head[8:9] == b"{" and _CONFIG in _metadata(path)

    def read(self, path: Path, options: ReadOptions) -> Checkpoint:
        """Read the network; a text encoder in the file is not read."""
        where = f"{path}: {_CONFIG}"
        values = _values(_metadata(path)[_CONFIG], where)
        length = {} if options.prompt_length is None else {"prompt_length": options.prompt_length}
        values = _DEFAULTS | length | values
        config = config_from_hub(values, where)
        check_prompt_length(path, options, config)
        check_single_weights(path, options)
        return read_weights(
            SafetensorsFiles([path]),
            _rule,
            config,
            form="single-file",
            path=path,
            weights=PUBLISHED_WEIGHTS,
            files=[path],
        )


def _rule(name: str) -> Target | Drop | None:
    """``transformer.model.net.double_blocks.0.img_qkv.weight``."""
    if name.startswith("text_encoder."):
        return Drop("text encoder", "is given apart, in Hugging Face form")
    prefix = "transformer."
    return hub_rule(name.removeprefix(prefix)) if name.startswith(prefix) else None


def _values(text: str, where: str) -> dict[str, Any]:
    """The configuration, without what says that it is in pixels."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{where}: not JSON ({error}); save the file again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{where}: expected an object, got {text[:60]}; save the file again")
    kind, scale = values.pop("vae_type", "none"), values.pop("noise_scale", _NOISE_SCALE)
    if kind != "none" or scale != _NOISE_SCALE:
        raise CheckpointError(
            f"{where}: a network of latents (vae_type {kind!r}, noise_scale {scale!r}), but only "
            "those of pixels are supported; no released MiniT2I has a VAE"
        )
    return values


def _metadata(path: Path) -> dict[str, str]:
    """The texts in a safetensors header; empty for any other file."""
    try:
        with path.open("rb") as file:
            num_bytes = int.from_bytes(file.read(8), "little")
            if num_bytes > _MAX_HEADER_BYTES:
                return {}
            texts = json.loads(file.read(num_bytes)).get("__metadata__", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return texts if isinstance(texts, dict) else {}
