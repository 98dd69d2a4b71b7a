"""Parameter names of the PyTorch port's trainer, which Looped-DiT shares."""

from __future__ import annotations

from typing import Final

from minit2i_deploy.checkpoints.assemble import Drop, Target, canonical_target

_TOP: Final = {
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
_BLOCK: Final = {
    "proj": "attn_proj",
    "img_proj": "img_attn_proj",
    "txt_proj": "txt_attn_proj",
}


def training_rule(name: str) -> Target | Drop | None:
    """``blocks.0.img_qkv.weight``, the PyTorch port's trainer.

    Source: minit2i-torch mini_t2i/model.py.
    """
    top, *rest = name.split(".")
    if top not in _TOP:
        return None
    if top in ("txt_blocks", "blocks"):
        rest = [_BLOCK.get(part, part) for part in rest]
    return canonical_target(".".join([_TOP[top], *rest]))
