"""The three families of official names, each as a rule onto the canonical names.

Source: minit2i-torch diffusers/pipeline.py (Hub and payload), mini_t2i/model.py (its trainer);
minit2i-jax models/mmjit.py and models/mean_flow.py (Flax).
"""

from __future__ import annotations

import re
from typing import Final

from minit2i_deploy.checkpoints.assemble import COPY, HWIO_TO_OIHW, TRANSPOSE, Axes, Drop, Target
from minit2i_deploy.checkpoints.names import UNUSED

_UNUSED_REASON: Final = "reaches no output of the network"

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

# Last two parts of a Flax path: the name they become and how the axes turn.
_FLAX_LEAVES: Final[dict[tuple[str, str], tuple[str, Axes]]] = {
    ("_flax_linear", "kernel"): (".weight", TRANSPOSE),
    ("_flax_linear", "bias"): (".bias", COPY),
    ("_flax_rmsnorm", "kernel"): (".weight", COPY),
    ("_flax_param", "param_tensor"): ("", COPY),
    ("proj1", "kernel"): (".proj1.weight", HWIO_TO_OIHW),
    ("proj2", "kernel"): (".proj2.weight", HWIO_TO_OIHW),
    ("proj2", "bias"): (".proj2.bias", COPY),
}
_FLAX_LAYER: Final = re.compile(r"layers_(0|[1-9][0-9]*)")


def canonical_rule(name: str) -> Target | Drop | None:
    """Names that are canonical already, beside the unused embedders."""
    return _target(name, COPY)


def hub_rule(name: str) -> Target | Drop | None:
    """``model.net.double_blocks.0.img_qkv.weight``, the Hub release."""
    return _target(name.removeprefix("model.net."), COPY) if name.startswith("model.net.") else None


def payload_rule(name: str) -> Target | Drop | None:
    """``net.double_blocks.0.img_qkv.weight``, input of the official converter."""
    return _target(name.removeprefix("net."), COPY) if name.startswith("net.") else None


def training_rule(name: str) -> Target | Drop | None:
    """``blocks.0.img_qkv.weight``, the PyTorch port's trainer."""
    top, *rest = name.split(".")
    if top not in _TRAINING_TOP:
        return None
    if top in ("txt_blocks", "blocks"):
        rest = [_TRAINING_BLOCK.get(part, part) for part in rest]
    return _target(".".join([_TRAINING_TOP[top], *rest]), COPY)


def flax_rule(name: str) -> Target | Drop | None:
    """``double_blocks/layers_0/img_qkv/_flax_linear/kernel``, below ``net``."""
    parts = name.split("/")
    if len(parts) < 3 or tuple(parts[-2:]) not in _FLAX_LEAVES:
        return None
    path, (holder, leaf) = parts[:-2], parts[-2:]
    if holder in ("proj1", "proj2") and path != ["img_embedder"]:
        return None
    suffix, axes = _FLAX_LEAVES[holder, leaf]
    return _target(".".join(_torch_part(part) for part in path) + suffix, axes)


def _torch_part(part: str) -> str:
    layer = _FLAX_LAYER.fullmatch(part)
    return layer[1] if layer else part


def _target(name: str, axes: Axes) -> Target | Drop:
    if name in UNUSED:
        return Drop(name.split(".")[0], _UNUSED_REASON)
    return Target(name, axes)
