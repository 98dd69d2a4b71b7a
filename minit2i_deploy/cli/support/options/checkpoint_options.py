"""Which weights of a checkpoint are meant, for every command that reads one."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from minit2i_deploy.cli.support.options.shared_arguments import (
    add_adapters,
    image_size,
    integer,
    read_adapters,
)
from minit2i_deploy.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointOptions:
    """What to take from a checkpoint; the fields are those of ``load_checkpoint``, but ``raw``."""

    text_encoder: str | None
    lora: tuple[tuple[str, float], ...] | None
    raw: bool
    image_size: int | tuple[int, int] | None
    prompt_length: int | None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``export_bundle`` and ``verify_bundle``."""
        return {
            "text_encoder": self.text_encoder,
            "lora": self.adapters,
            "ema": not self.raw,
            "image_size": self.image_size,
            "prompt_length": self.prompt_length,
        }

    @property
    def adapters(self) -> dict[str, float] | None:
        """Strength of each adapter.

        Raises:
            UsageError: one is given twice.
        """
        return read_adapters(self.lora)

    def refuse_without(self, option: str) -> None:
        """Refuse every one of these options, because the one they belong to is missing.

        Raises:
            UsageError: the first of them that is given.
        """
        for name, value in dataclasses.asdict(self).items():
            if value not in (None, False):
                raise UsageError(f"--{name.replace('_', '-')} requires {option}")


def add_checkpoint_options(parser: argparse.ArgumentParser, *, only_with: str = "") -> None:
    """--text-encoder, --lora, --raw, --image-size and --prompt-length.

    Args:
        parser: gets them as a group.
        only_with: the option that they belong to, where the checkpoint itself is optional.
    """
    title = f"checkpoint, with {only_with}" if only_with else "checkpoint"
    group = parser.add_argument_group(title)
    group.add_argument(
        "--text-encoder",
        metavar="DIR",
        help="T5 encoder and tokenizer in Hugging Face form; default: those beside the checkpoint",
    )
    add_adapters(group)
    group.add_argument(
        "--raw", action="store_true", help="take the raw weights in place of their average (EMA)"
    )
    group.add_argument(
        "--image-size",
        metavar="SIZE",
        type=image_size,
        help="of the images: pixels of a side, or WIDTHxHEIGHT, multiples of the patch; default: "
        "what the weights were trained for, which a Flax checkpoint of no published shape does not "
        "store",
    )
    group.add_argument(
        "--prompt-length",
        metavar="TOKENS",
        type=integer,
        help="of a Flax checkpoint of no published shape: tokens of a prompt",
    )
