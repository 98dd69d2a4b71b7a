"""Arguments that say which weights of a checkpoint are meant, for every command that reads one."""

from __future__ import annotations

import argparse
from typing import Any

from minit2i_deploy.errors import UsageError


def add_source(parser: argparse.ArgumentParser, *, only_with: str = "") -> None:
    """--text-encoder, --lora, --raw, --image-size and --prompt-length.

    Args:
        parser: gets them as a group.
        only_with: the option that they belong to, where the checkpoint is one itself.
    """
    words = f"checkpoint, with {only_with}" if only_with else "checkpoint"
    group = parser.add_argument_group(words)
    group.add_argument(
        "--text-encoder",
        metavar="DIR",
        help="T5 encoder and tokenizer in Hugging Face form; default: those beside the checkpoint",
    )
    group.add_argument(
        "--lora", metavar="ADAPTER", help="merge this PEFT adapter (folder or safetensors file)"
    )
    group.add_argument(
        "--raw", action="store_true", help="take the online weights, not those meant for use (EMA)"
    )
    group.add_argument(
        "--image-size",
        metavar="PIXELS",
        type=int,
        help="of a Flax checkpoint of no published shape, which does not say it",
    )
    group.add_argument(
        "--prompt-length", metavar="TOKENS", type=int, help="as --image-size, for the prompt"
    )


def refuse_source(options: argparse.Namespace, missing: str) -> None:
    """Refuse every one of these options, because the option they belong to did not come.

    Raises:
        UsageError: the first of them that came.
    """
    for name in ("text_encoder", "lora", "raw", "image_size", "prompt_length"):
        if getattr(options, name) not in (None, False):
            word = f"--{name.replace('_', '-')}"
            raise UsageError(f"{word} came without {missing}; add {missing}, or leave {word} out")


def source_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What the options mean to ``export_bundle`` and ``verify_bundle``."""
    return {
        "text_encoder": options.text_encoder,
        "lora": options.lora,
        "ema": not options.raw,
        "image_size": options.image_size,
        "prompt_length": options.prompt_length,
    }
