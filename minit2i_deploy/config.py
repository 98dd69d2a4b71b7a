"""Configuration of a MiniT2I network and the published variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from minit2i_deploy.errors import CheckpointError, UsageError
from minit2i_deploy.loop_config import LoopConfig

# Fields that are configurations themselves, and None for most networks.
_PARTS: Final = ("student", "loop")
_OPTIONAL: Final = (*_PARTS, "image_width")
# 4096 x 4096 pixels in patches of 16: attention over more needs no typing error to end a machine.
_MAX_IMAGE_TOKENS: Final = 2**16


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """Condition tokens that the few-step student (Mean Flow) prepends to the text tokens.

    Source: minit2i-jax, branch mean_flow_distill, class MeanFlowMMJiT.
    """

    num_context_tokens: int = 8
    num_cfg_tokens: int = 4
    num_interval_tokens: int = 2
    num_time_tokens: int = 4

    @property
    def num_tokens(self) -> int:
        """Length of the prefix; the interval has one group for t_min and one for t_max."""
        return (
            self.num_context_tokens
            + self.num_cfg_tokens
            + 2 * self.num_interval_tokens
            + self.num_time_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape of an MM-JiT network. Field names are those of the official config.json.

    Args:
        image_size: height of the image in pixels, and its width too unless image_width says
            otherwise; a multiple of patch_size.
        patch_size: height and width of one image token in pixels.
        hidden_size: width of both streams; equals num_heads * head_dim.
        head_dim: width of one attention head, a multiple of 4 (two axes of rotary pairs).
        depth_double: number of double-stream blocks with weights of their own.
        txt_preamble_depth: number of text-only blocks in the text adapter.
        mlp_ratio: SwiGLU width over hidden_size before rounding up to a multiple of 8.
        pca_channels: width between the two convolutions of the patch embedding.
        txt_input_size: width of the text encoder's output.
        prompt_length: number of text tokens; prompts are padded or truncated to it.
        student: the few-step student's condition tokens, or None for a base model.
        loop: how often which double blocks run (Looped-DiT), or None for each once.
        image_width: width of the image in pixels where it is not the height, else None.

    Raises:
        CheckpointError: a value is not positive or the values do not fit together.
    """

    image_size: int
    patch_size: int
    hidden_size: int
    num_heads: int
    head_dim: int
    depth_double: int
    in_channels: int = 3
    txt_preamble_depth: int = 2
    mlp_ratio: float = 2.6667
    pca_channels: int = 128
    txt_input_size: int = 1024
    prompt_length: int = 256
    student: StudentConfig | None = None
    loop: LoopConfig | None = None
    image_width: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _PARTS or (field.name == "image_width" and value is None):
                continue
            kind = (int, float) if field.name == "mlp_ratio" else int
            # bool is a subclass of int, and config.json may have true.
            if not isinstance(value, kind) or isinstance(value, bool) or value <= 0:
                raise CheckpointError(
                    f"config: {field.name} must be a positive number, got {value!r}; fix "
                    "config.json"
                )
        if self.hidden_size != self.num_heads * self.head_dim:
            raise CheckpointError(
                f"config: hidden_size {self.hidden_size} is not num_heads {self.num_heads} "
                f"x head_dim {self.head_dim}; fix config.json"
            )
        if self.head_dim % 4 or self.hidden_size % 4:
            raise CheckpointError(
                f"config: head_dim {self.head_dim} and hidden_size {self.hidden_size} must be "
                "multiples of 4 for the two-axis position tables; fix config.json"
            )
        for name, size in (("image_size", self.image_size), ("image_width", self.image_width)):
            if size is not None and size % self.patch_size:
                raise CheckpointError(
                    f"config: {name} {size} is not a multiple of patch_size {self.patch_size}; "
                    "fix config.json"
                )
        if self.loop is not None and self.loop.num_blocks != self.depth_double:
            raise CheckpointError(
                f"config: depth_double is {self.depth_double}, but the loop has "
                f"{self.loop.num_blocks} blocks; fix config.json"
            )

    @property
    def mlp_hidden_size(self) -> int:
        """SwiGLU width: int(hidden_size * mlp_ratio) rounded up to a multiple of 8."""
        return -(-int(self.hidden_size * self.mlp_ratio) // 8) * 8

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Sizes of one image's array: channels, height, width."""
        return self.in_channels, self.image_size, self.image_width or self.image_size

    @property
    def size_text(self) -> str:
        """Width and height of an image, as users write them: 768x512."""
        _, height, width = self.image_shape
        return f"{width}x{height}"

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Image tokens from top to bottom and from left to right."""
        _, height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_image_tokens(self) -> int:
        """Image tokens of one image."""
        lines, columns = self.patch_grid
        return lines * columns

    @property
    def num_text_tokens(self) -> int:
        """Length of the adapter's output: the prompt and, for a student, its prefix."""
        return self.prompt_length + (self.student.num_tokens if self.student else 0)

    def block_order(self, num_loops: int | None = None) -> tuple[int, ...]:
        """Indices of the double blocks in the order in which they run.

        Args:
            num_loops: passes of a looped network's core; None is the configuration's number.

        Raises:
            UsageError: the network has no loop, or cannot run it that often.
        """
        if self.loop is not None:
            return self.loop.order(num_loops)
        if num_loops is not None:
            raise UsageError(f"loops is {num_loops!r}, but this network has no loop; omit it")
        return tuple(range(self.depth_double))

    def with_loops(self, num_loops: int | None) -> ModelConfig:
        """The same network with another number of passes; None is the configuration's own.

        Raises:
            UsageError: as ``block_order``.
        """
        self.block_order(num_loops)
        if num_loops is None or self.loop is None:
            return self
        loop = dataclasses.replace(self.loop, num_loops=num_loops)
        return dataclasses.replace(self, loop=loop)

    def with_image_size(self, width: int, height: int) -> ModelConfig:
        """The same network for images of another size: no weight depends on it.

        Raises:
            UsageError: a side is no positive multiple of the patch, or there are too many patches.
        """
        patch = self.patch_size
        if min(width, height) < 1 or width % patch or height % patch:
            raise UsageError(
                f"image size is {width}x{height}, but both sides must be multiples of the patch "
                f"of {patch} pixels"
            )
        if width * height > _MAX_IMAGE_TOKENS * patch**2:
            raise UsageError(
                f"image size is {width}x{height}, which is more than {_MAX_IMAGE_TOKENS:,} "
                f"patches of {patch} pixels; choose a smaller one"
            )
        other = None if width == height else width
        return dataclasses.replace(self, image_size=height, image_width=other)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is optional is there only if it is set."""
        values = dataclasses.asdict(self)
        for name in _OPTIONAL:
            if values[name] is None:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build from ``to_dict``'s form; every key must be known and no required key missing.

        Raises:
            CheckpointError: unknown or missing keys, or values that do not fit together.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        required = {
            field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING
        }
        unknown, missing = sorted(set(values) - names), sorted(required - set(values))
        if unknown or missing:
            raise CheckpointError(
                f"config: unknown keys {unknown}, missing keys {missing}; "
                f"known keys are {sorted(names)}"
            )
        kwargs = dict(values)
        # JSON has no dataclasses.
        if kwargs.get("student") is not None:
            kwargs["student"] = StudentConfig(**kwargs["student"])
        if kwargs.get("loop") is not None:
            kwargs["loop"] = LoopConfig.from_dict(kwargs["loop"])
        return cls(**kwargs)


def _variant(hidden_size: int, num_heads: int, depth: int, patch_size: int = 16) -> ModelConfig:
    return ModelConfig(
        image_size=512,
        patch_size=patch_size,
        hidden_size=hidden_size,
        num_heads=num_heads,
        head_dim=hidden_size // num_heads,
        depth_double=depth,
        # With 2.6667, the SwiGLU width of 1248 would not be the published one.
        mlp_ratio=2.7 if hidden_size == 1248 else 2.6667,
    )


# Source: minit2i-jax configs; the press article's table of sizes.
VARIANTS: Final[Mapping[str, ModelConfig]] = {
    "b-32": _variant(768, 12, 17, patch_size=32),
    "b-16": _variant(768, 12, 17),
    "m-16": _variant(1024, 16, 22),
    "l-16": _variant(1248, 24, 23),
    "xl-16": _variant(1536, 24, 33),
    "b-16-mf": dataclasses.replace(_variant(768, 12, 17), student=StudentConfig()),
}


def _looped(
    config: ModelConfig, pre: int, core: int, post: int, mlp_ratio: float = 2.6667
) -> ModelConfig:
    loop = LoopConfig(pre=pre, core=core, post=post, num_loops=4)
    return dataclasses.replace(config, mlp_ratio=mlp_ratio, loop=loop)


# Looped-DiT on the same backbones. Source: the configurations that Looped-DiT publishes.
LOOPED_VARIANTS: Final[Mapping[str, ModelConfig]] = {
    "looped-b-32": _looped(VARIANTS["b-32"], 6, 5, 6),
    "looped-b-16": _looped(VARIANTS["b-16"], 6, 5, 6),
    "looped-l-16": _looped(VARIANTS["l-16"], 8, 7, 8, mlp_ratio=2.7051282051282053),
}
