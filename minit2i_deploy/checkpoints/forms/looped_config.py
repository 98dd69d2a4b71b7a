"""ModelConfig from the configurations that Looped-DiT's code and its diffusers port write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.checkpoints.assemble import Drop, Target
from minit2i_deploy.checkpoints.forms.training_names import training_rule
from minit2i_deploy.config import ModelConfig
from minit2i_deploy.errors import CheckpointError
from minit2i_deploy.loop_config import LoopConfig

# Every released model was trained with this many; the port's config.json does not say.
PROMPT_LENGTH: Final = 256
# A configuration with this key describes a looped network.
MARK: Final = "loop_split"

_FIELDS: Final = {
    name: name
    for name in (
        "image_size",
        "patch_size",
        "hidden_size",
        "num_heads",
        "head_dim",
        "mlp_ratio",
        "pca_channels",
    )
} | {"text_preamble_depth": "txt_preamble_depth", "text_dim": "txt_input_size"}
_LOOP_FIELDS: Final = (MARK, "num_loops", "share_loop_weights", "use_xsa", "use_attn_gate")


def config_from_looped(
    values: Mapping[str, Any], prompt_length: int | None, where: str
) -> ModelConfig:
    """From the ``config`` of a .pt file or a transformer's config.json.

    Args:
        values: the configuration; sampling and training settings in it are not read.
        prompt_length: text tokens, for a configuration that does not say; None is the releases'.
        where: path of the configuration, for errors.

    Raises:
        CheckpointError: keys are missing, or the values do not fit together.
    """
    missing = sorted({*_FIELDS, *_LOOP_FIELDS} - set(values))
    if missing:
        raise CheckpointError(
            f"{where}: the configuration has no {missing}; give a checkpoint as Looped-DiT's code "
            "saved it"
        )
    loop = _loop(values, where)
    try:
        return ModelConfig(
            **{field: values[official] for official, field in _FIELDS.items()},
            in_channels=values.get("in_channels", 3),
            prompt_length=values.get("prompt_length", prompt_length or PROMPT_LENGTH),
            depth_double=loop.num_blocks,
            loop=loop,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _loop(values: Mapping[str, Any], where: str) -> LoopConfig:
    split, share = values[MARK], values["share_loop_weights"]
    if not isinstance(split, list | tuple) or len(split) != 3 or type(share) is not bool:
        raise CheckpointError(
            f"{where}: {MARK} is {split!r} and share_loop_weights {share!r}, expected the numbers "
            "of blocks before, in and after the loop, and true or false"
        )
    pre, core, post = split
    try:
        return LoopConfig(
            pre=pre,
            core=core,
            post=post,
            num_loops=values["num_loops"],
            num_copies=1 if share else values["num_loops"],
            use_xsa=values["use_xsa"],
            use_attn_gate=values["use_attn_gate"],
        )
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error


def looped_rule(name: str) -> Target | Drop | None:
    """``blocks.0.img_qkv.weight``: the names of the PyTorch port's trainer.

    An early layout of the diffusers port puts ``transformer.`` before all of them.
    """
    return training_rule(name.removeprefix("transformer."))
