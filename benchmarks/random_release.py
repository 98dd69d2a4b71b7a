"""Random weights in the official release's form: what a benchmark runs where no weights may be.

Layers are scaled so that values keep their size through the network and the output depends on
every weight, which the official initialisation (zeros at the end) would not give.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import save_file

import minit2i_deploy.demo
from minit2i_deploy.checkpoints import canonical_shapes
from minit2i_deploy.config import LOOPED_VARIANTS, VARIANTS, ModelConfig

TINY: Final = ModelConfig(
    image_size=64,
    patch_size=8,
    hidden_size=64,
    num_heads=4,
    head_dim=16,
    depth_double=3,
    txt_input_size=32,
    prompt_length=24,
    pca_channels=16,
)
CONFIGS: Final = {
    "tiny": TINY,
    **{name: VARIANTS[name] for name in ("b-16", "l-16")},
    **{name: LOOPED_VARIANTS[name] for name in ("looped-b-32", "looped-b-16")},
}
TOKENIZER: Final = Path(minit2i_deploy.demo.__file__).parent / "assets" / "tokenizer"

_EMBEDDER_CHANNELS: Final = 256
_LOOPED_NAMES: Final = {
    "txt_preamble_blocks": "txt_blocks",
    "double_blocks": "blocks",
    "attn_proj": "proj",
    "final_layer.norm_final": "final_norm",
    "final_layer.linear": "final",
    "embedder": "embed",
}


def write_release(folder: Path, config: ModelConfig, t5_layers: int, vocabulary: int) -> None:
    """Write transformer/, text_encoder/ and tokenizer/ as the Hub's folders hold them.

    Args:
        folder: new.
        config: shape of the network.
        t5_layers: of the text encoder; FLAN-T5-Large has 24.
        vocabulary: rows of its embedding; FLAN-T5-Large has 32128.
    """
    (folder / "transformer").mkdir(parents=True)
    rng = np.random.default_rng(0)
    shapes = canonical_shapes(config) | _unused_shapes(config)
    rename = _looped_name if config.loop else "model.net.{}".format
    tensors = {rename(name): _weight(rng, name, shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    del tensors
    (folder / "transformer" / "config.json").write_text(json.dumps(_hub_config(config), indent=2))
    _write_text_encoder(folder / "text_encoder", config.txt_input_size, t5_layers, vocabulary)
    shutil.copytree(TOKENIZER, folder / "tokenizer")


def _weight(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.standard_normal(shape, dtype=np.float32)
    if "norm" in name:
        return 1 + np.float32(0.1) * values
    if name == "mask_token" or len(shape) == 1:
        return np.float32(0.1) * values
    return values * np.float32(1 / math.sqrt(math.prod(shape[1:])))


def _unused_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The embedders that reach no output; the official reader wants them all the same."""
    width = config.hidden_size
    return {
        "t_embedder.mlp.0.weight": (width, _EMBEDDER_CHANNELS),
        "t_embedder.mlp.0.bias": (width,),
        "t_embedder.mlp.2.weight": (width, width),
        "t_embedder.mlp.2.bias": (width,),
        "pooled_embedder.weight": (width, config.txt_input_size),
    }


def _looped_name(name: str) -> str:
    """A canonical name as Looped-DiT's code has it."""
    for ours, theirs in _LOOPED_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _looped_config(config: ModelConfig) -> dict[str, object]:
    assert config.loop is not None
    loop = config.loop
    names = ("image_size", "patch_size", "hidden_size", "num_heads", "head_dim", "mlp_ratio")
    return {
        "_class_name": "LoopedDiTTransformer2DModel",
        **{name: getattr(config, name) for name in (*names, "pca_channels", "in_channels")},
        "text_preamble_depth": config.txt_preamble_depth,
        "text_dim": config.txt_input_size,
        "loop_split": [loop.pre, loop.core, loop.post],
        "num_loops": loop.num_loops,
        "share_loop_weights": True,
        "use_xsa": loop.use_xsa,
        "use_attn_gate": loop.use_attn_gate,
    }


def _hub_config(config: ModelConfig) -> dict[str, object]:
    if config.loop is not None:
        return _looped_config(config)
    sizes = {"txt_hidden_size": config.hidden_size, "cond_vec_size": config.hidden_size}
    return {"_class_name": "MiniT2IMMJiTModel", **config.to_dict(), **sizes}


def _write_text_encoder(folder: Path, width: int, num_layers: int, vocabulary: int) -> None:
    import torch
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=vocabulary,
            d_model=width,
            d_kv=width // 16,
            d_ff=-(-width * 11 // 4),
            num_layers=num_layers,
            num_heads=16,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )
    encoder.save_pretrained(folder)
