"""The canonical names and shapes of a network's weights.

Source: the Hub release's names without ``model.net.``, less the two embedders that reach no
output; minit2i-jax, branch mean_flow_distill, class MeanFlowMMJiT for the student's; the gates of
Looped-DiT have its own names.
"""

from __future__ import annotations

from typing import Final

from minit2i_deploy.config import ModelConfig

Shape = tuple[int, ...]

# Width of the sinusoid that is the input of the student's four embedders.
FREQUENCY_CHANNELS: Final = 256

# Every official torch checkpoint and some Flax ones carry these; no output depends on them.
UNUSED: Final[frozenset[str]] = frozenset(
    {"pooled_embedder.weight"}
    | {f"t_embedder.mlp.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")}
)


def canonical_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Names and shapes of all weights of a network, in the order of the forward pass.

    Linear weights are [out, in], convolutions [out, in, height, width].
    """
    width, patch, pca = config.hidden_size, config.patch_size, config.pca_channels
    shapes: dict[str, Shape] = {"mask_token": (1, 1, config.txt_input_size)}
    if config.student is not None:
        shapes |= _student_shapes(config)
    shapes["txt_embedder.weight"] = (width, config.txt_input_size)
    for i in range(config.txt_preamble_depth):
        shapes |= _text_block_shapes(config, f"txt_preamble_blocks.{i}.")
    shapes |= {
        "img_embedder.proj1.weight": (pca, config.in_channels, patch, patch),
        "img_embedder.proj2.weight": (width, pca, 1, 1),
        "img_embedder.proj2.bias": (width,),
    }
    for i in range(config.depth_double):
        shapes |= _double_block_shapes(config, f"double_blocks.{i}.")
        if config.loop is not None and config.loop.use_attn_gate and config.loop.is_core(i):
            shapes |= _gate_shapes(config, f"double_blocks.{i}.")
    num_values = patch * patch * config.in_channels
    return shapes | {
        "final_layer.norm_final.weight": (width,),
        "final_layer.linear.weight": (num_values, width),
        "final_layer.linear.bias": (num_values,),
    }


def linear_modules(config: ModelConfig) -> dict[str, Shape]:
    """Names of the linear layers, without ``.weight``, and their weights' shapes [out, in]."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in canonical_shapes(config).items()
        if len(shape) == 2
    }


def _stream_shapes(config: ModelConfig, prefix: str) -> dict[str, Shape]:
    """One stream of a block: everything but the norms of queries and keys."""
    width, hidden = config.hidden_size, config.mlp_hidden_size
    return {
        f"{prefix}norm1.weight": (width,),
        f"{prefix}qkv.weight": (3 * width, width),
        f"{prefix}qkv.bias": (3 * width,),
        f"{prefix}attn_proj.weight": (width, width),
        f"{prefix}attn_proj.bias": (width,),
        f"{prefix}norm2.weight": (width,),
        f"{prefix}mlp.w1.weight": (hidden, width),
        f"{prefix}mlp.w2.weight": (width, hidden),
        f"{prefix}mlp.w3.weight": (hidden, width),
    }


def _head_norm_shapes(config: ModelConfig, prefix: str) -> dict[str, Shape]:
    return {f"{prefix}{name}_norm.weight": (config.head_dim,) for name in ("q", "k")}


def _text_block_shapes(config: ModelConfig, prefix: str) -> dict[str, Shape]:
    return _stream_shapes(config, prefix) | _head_norm_shapes(config, prefix)


def _double_block_shapes(config: ModelConfig, prefix: str) -> dict[str, Shape]:
    return (
        _stream_shapes(config, f"{prefix}img_")
        | _stream_shapes(config, f"{prefix}txt_")
        | _head_norm_shapes(config, prefix)
    )


def _gate_shapes(config: ModelConfig, prefix: str) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for stream in ("img", "txt"):
        shapes[f"{prefix}{stream}_gate.weight"] = (config.num_heads, config.hidden_size)
        shapes[f"{prefix}{stream}_gate.bias"] = (config.num_heads,)
    return shapes


def _student_shapes(config: ModelConfig) -> dict[str, Shape]:
    student, width = config.student, config.hidden_size
    assert student is not None
    num_tokens = {
        "context_tokens": student.num_context_tokens,
        "omega_tokens": student.num_cfg_tokens,
        "t_min_tokens": student.num_interval_tokens,
        "t_max_tokens": student.num_interval_tokens,
        "time_tokens": student.num_time_tokens,
    }
    shapes: dict[str, Shape] = {name: (1, count, width) for name, count in num_tokens.items()}
    shapes["aux_pooled_embedder.weight"] = (width, config.txt_input_size)
    for name in ("omega", "t_min", "t_max", "h"):
        prefix = f"{name}_embedder.mlp."
        shapes |= {
            f"{prefix}0.weight": (width, FREQUENCY_CHANNELS),
            f"{prefix}0.bias": (width,),
            f"{prefix}2.weight": (width, width),
            f"{prefix}2.bias": (width,),
        }
    return shapes
