"""ModelConfig from the official configuration dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError

# Name in the report of a form that holds one set of weights.
PUBLISHED_WEIGHTS: Final = "the only ones in the file, as published"

# Official name -> field, for the names that both official torch codes share.
_SHARED_FIELDS: Final = {
    name: name
    for name in (
        "image_size",
        "patch_size",
        "hidden_size",
        "num_heads",
        "head_dim",
        "depth_double",
        "mlp_ratio",
        "pca_channels",
        "prompt_length",
    )
}
# Source: minit2i-torch diffusers/mmdit.py, class MMJiTConfig.
_HUB_FIELDS: Final = _SHARED_FIELDS | {
    "in_channels": "in_channels",
    "txt_preamble_depth": "txt_preamble_depth",
    "txt_input_size": "txt_input_size",
}
# Source: minit2i-torch mini_t2i/config.py, class TrainConfig, which has no in_channels.
_TRAINING_FIELDS: Final = _SHARED_FIELDS | {
    "text_preamble_depth": "txt_preamble_depth",
    "t5_hidden_size": "txt_input_size",
}
# Sampling settings, and sizes of the embedders that reach no output: not read.
_HUB_OTHERS: Final = frozenset(
    {
        "txt_hidden_size",
        "cond_vec_size",
        "n_T",
        "prediction",
        "sampler",
        "cfg_channels",
        "cfg_interval",
        "llm",
    }
)


def config_from_hub(values: Mapping[str, Any], where: str) -> ModelConfig:
    """From a transformer's config.json or a converter payload.

    Raises:
        CheckpointError: keys are missing or unknown, or describe another architecture.
    """
    class_name = values.get("_class_name", "MiniT2IMMJiTModel")
    if class_name != "MiniT2IMMJiTModel" or "architectures" in values:
        raise CheckpointError(
            f"{where}: describes {values.get('architectures', class_name)}, expected a "
            "MiniT2IMMJiTModel; give the folder of the transformer"
        )
    unknown = sorted(
        key
        for key in values
        if not (key in _HUB_FIELDS or key in _HUB_OTHERS or key.startswith("_"))
        and key != "compat_checkpoint_arch"
    )
    if unknown:
        raise CheckpointError(
            f"{where}: unknown keys {unknown}, which may describe another architecture; "
            "give a checkpoint as the official code saved it"
        )
    return _build(values, _HUB_FIELDS, "txt_hidden_size", where)


def config_from_training(values: Mapping[str, Any], where: str) -> ModelConfig:
    """From the configuration inside the PyTorch port's training checkpoint.

    Raises:
        CheckpointError: keys are missing, or describe another architecture.
    """
    return _build(values, _TRAINING_FIELDS, "text_hidden_size", where)


def _build(
    values: Mapping[str, Any], fields: Mapping[str, str], text_width: str, where: str
) -> ModelConfig:
    missing = sorted({*fields, text_width} - set(values))
    if missing:
        raise CheckpointError(
            f"{where}: the configuration has no {missing}; give a checkpoint as the official code "
            "saved it"
        )
    if values.get("compat_checkpoint_arch", False):
        raise CheckpointError(
            f"{where}: compat_checkpoint_arch is {values['compat_checkpoint_arch']!r}: an older "
            "network without norm weights and with other rotary positions, which is not MiniT2I "
            "as released; train or fetch a checkpoint with compat_checkpoint_arch false"
        )
    if values.get("prediction", "x") != "x":
        raise CheckpointError(
            f"{where}: the network predicts {values['prediction']!r}, expected 'x' (the clean "
            "image); no released checkpoint predicts anything else"
        )
    if values[text_width] != values["hidden_size"]:
        raise CheckpointError(
            f"{where}: {text_width} is {values[text_width]!r}, expected hidden_size "
            f"{values['hidden_size']!r}; streams of different widths are not supported"
        )
    try:
        return ModelConfig(**{field: values[official] for official, field in fields.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
