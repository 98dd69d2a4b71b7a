"""Operation and parameter counts of the exported graphs' matrix products.

A multiplication and the addition after it count as two. Normalization, softmax and position
tables, about one in a thousand, are excluded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minit2i_deploy.config import VARIANTS, ModelConfig

# Parameters of FLAN-T5-Large's encoder. Source: its released weights.
T5_LARGE_PARAMETERS: Final = 341_231_104


def denoiser_flops(config: ModelConfig) -> int:
    """One evaluation of the exported denoiser: one image, one branch.

    The text stream of the last block computes keys and values only: nothing reads its output. The
    core of a looped network counts once a pass.
    """
    width, inner = config.hidden_size, config.num_heads * config.head_dim
    text, image = config.num_text_tokens, config.num_image_tokens
    tokens = text + image
    patch = config.in_channels * config.patch_size**2
    num_blocks = len(config.block_order())
    blocks = num_blocks * (2 * tokens * _block_weights(config) + 4 * tokens**2 * inner)
    unread = 2 * text * (2 * width * inner + 3 * width * config.mlp_hidden_size)
    unread += 4 * text * tokens * inner
    channels = config.pca_channels
    ends = 2 * image * (patch * channels + channels * width + width * patch)
    return blocks - unread + ends


def adapter_flops(config: ModelConfig) -> int:
    """One prompt through the text adapter, a few-step student's condition tokens included."""
    inner, text = config.num_heads * config.head_dim, config.num_text_tokens
    entry = 2 * config.prompt_length * config.txt_input_size * config.hidden_size
    block = 2 * text * _block_weights(config) + 4 * text**2 * inner
    return entry + config.txt_preamble_depth * block


def text_encoder_flops(encoder: Mapping[str, Any], num_tokens: int) -> int:
    """One text through a T5 encoder with gated feed-forward layers.

    Args:
        encoder: its config.json.
        num_tokens: of the text.
    """
    width, inner = encoder["d_model"], encoder["num_heads"] * encoder["d_kv"]
    weights = 4 * width * inner + 3 * width * encoder["d_ff"]
    layer = 2 * num_tokens * weights + 4 * num_tokens**2 * inner
    flops: int = encoder["num_layers"] * layer
    return flops


def denoiser_parameters(config: ModelConfig) -> int:
    """Weights of the matrices of the exported denoiser; norms and biases are excluded."""
    width, inner = config.hidden_size, config.num_heads * config.head_dim
    patch = config.in_channels * config.patch_size**2
    unread = 2 * width * inner + 3 * width * config.mlp_hidden_size
    # The text stream of the last block needs the matrices of its keys and values only, but those of
    # the queries are in the file too, because the three are one tensor.
    unread -= width * inner
    channels = config.pca_channels
    ends = patch * channels + channels * width + width * patch
    return 2 * config.depth_double * _block_weights(config) - unread + ends


def adapter_parameters(config: ModelConfig) -> int:
    """Weights of the matrices of the text adapter."""
    entry = config.txt_input_size * config.hidden_size
    return entry + config.txt_preamble_depth * _block_weights(config)


def variant_bytes() -> dict[str, dict[str, int]]:
    """Bytes of the matrices of each published variant.

    Returns:
        variant to "fp32" and "16 bit" (denoiser and text adapter) and "with encoder" (fp32, with
        FLAN-T5-Large in fp32).
    """
    sizes = {}
    for name, config in VARIANTS.items():
        parameters = denoiser_parameters(config) + adapter_parameters(config)
        sizes[name] = {
            "fp32": 4 * parameters,
            "16 bit": 2 * parameters,
            "with encoder": 4 * (parameters + T5_LARGE_PARAMETERS),
        }
    return sizes


def _block_weights(config: ModelConfig) -> int:
    """Weights of one stream of one block: queries, keys and values, output, SwiGLU."""
    width, inner = config.hidden_size, config.num_heads * config.head_dim
    return 3 * width * inner + inner * width + 3 * width * config.mlp_hidden_size
