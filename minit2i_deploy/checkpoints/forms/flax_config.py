"""ModelConfig from the shapes of a Flax parameter tree, which carries no configuration.

Image size and prompt length leave no trace in the weights: position tables are computed. They
come from the published variant with these shapes, or from the caller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from minit2i_deploy.checkpoints.canonical_names import canonical_shapes
from minit2i_deploy.config import VARIANTS, ModelConfig, StudentConfig
from minit2i_deploy.errors import CheckpointError, UsageError

Shape = tuple[int, ...]

STUDENT_MARK: Final = "context_tokens"
_PUBLISHED_RATIOS: Final = tuple(sorted({variant.mlp_ratio for variant in VARIANTS.values()}))


def infer_config(
    shapes: Mapping[str, Shape], image_size: int | None, prompt_length: int | None, where: str
) -> ModelConfig:
    """The configuration whose weights have these shapes.

    Args:
        shapes: canonical names to shapes; names that no network has are ignored here, because
            the strict mapping that follows reports them.
        image_size: pixels, where no published variant has these shapes.
        prompt_length: text tokens, or None to take the published variant's.
        where: path of the checkpoint, for errors.

    Raises:
        CheckpointError: a shape is missing or does not fit.
        UsageError: no published variant has these shapes and the caller gave no sizes.
    """
    config = _without_sizes(shapes, where)
    variant = next(
        (v for v in VARIANTS.values() if canonical_shapes(v) == canonical_shapes(config)), None
    )
    if variant is not None:
        image_size, prompt_length = variant.image_size, prompt_length or variant.prompt_length
    elif image_size is None or prompt_length is None:
        raise UsageError(
            f"{where}: weights of width {config.hidden_size}, {config.depth_double} blocks and "
            f"patch {config.patch_size} match none of {', '.join(VARIANTS)}, and a Flax "
            "checkpoint does not hold the other sizes; pass image_size and prompt_length"
        )
    try:
        return dataclasses.replace(config, image_size=image_size, prompt_length=prompt_length)
    except CheckpointError as error:
        raise UsageError(f"{where}: {error}") from error


def _without_sizes(shapes: Mapping[str, Shape], where: str) -> ModelConfig:
    """All sizes that follow from the shapes; image_size and prompt_length are placeholders."""

    def axes(name: str, count: int) -> Shape:
        shape = shapes.get(name)
        if shape is None or len(shape) != count or 0 in shape:
            raise CheckpointError(
                f"{where}: {name} is {'missing' if shape is None else list(shape)}, expected an "
                f"array of {count} axes; this is not an MM-JiT network"
            )
        return shape

    hidden_size, txt_input_size = axes("txt_embedder.weight", 2)
    pca_channels, in_channels, patch_size, _ = axes("img_embedder.proj1.weight", 4)
    (head_dim,) = axes("double_blocks.0.q_norm.weight", 1)
    mlp_size, _ = axes("double_blocks.0.img_mlp.w1.weight", 2)
    student = None
    if STUDENT_MARK in shapes:
        student = StudentConfig(
            num_context_tokens=axes("context_tokens", 3)[1],
            num_cfg_tokens=axes("omega_tokens", 3)[1],
            num_interval_tokens=axes("t_min_tokens", 3)[1],
            num_time_tokens=axes("time_tokens", 3)[1],
        )
    config = ModelConfig(
        image_size=patch_size,
        patch_size=patch_size,
        in_channels=in_channels,
        hidden_size=hidden_size,
        num_heads=max(1, hidden_size // head_dim),
        head_dim=head_dim,
        depth_double=_depth(shapes, "double_blocks"),
        txt_preamble_depth=_depth(shapes, "txt_preamble_blocks"),
        pca_channels=pca_channels,
        txt_input_size=txt_input_size,
        prompt_length=1,
        student=student,
    )
    return _with_ratio(config, mlp_size, where)


def _with_ratio(config: ModelConfig, mlp_size: int, where: str) -> ModelConfig:
    """A published ratio where one gives this SwiGLU width, else the plain quotient."""
    for ratio in (*_PUBLISHED_RATIOS, mlp_size / config.hidden_size):
        candidate = dataclasses.replace(config, mlp_ratio=ratio)
        if candidate.mlp_hidden_size == mlp_size:
            return candidate
    raise CheckpointError(
        f"{where}: a SwiGLU width of {mlp_size}, expected a multiple of 8; "
        "this is not an MM-JiT network"
    )


def _depth(shapes: Mapping[str, Shape], stack: str) -> int:
    """One past the highest block number; gaps show up as missing tensors later."""
    numbers = [
        int(number)
        for top, number, *_ in (name.split(".", 2) for name in shapes if name.count(".") >= 2)
        if top == stack and number.isdecimal()
    ]
    return max(numbers, default=-1) + 1
