"""The T5 encoder of a model and its tokenizer, opened under the same checks everywhere.

Training, embedding of shards, export and verification all open the pair here, so what one of them
accepts the others accept. The libraries fill missing tensors with random numbers and drop those
they do not know; both are errors here.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.errors import CheckpointError, UsageError
from minit2i_deploy.tokenizer import Tokenizer

# A complete T5 has a decoder, and copies of the embedding under other names.
_UNUSED_PARTS: Final = re.compile(r"decoder\.|lm_head\.|encoder\.embed_tokens\.weight$")
_EMBEDDING: Final = "shared.weight"
_EMBEDDING_COPY: Final = "encoder.embed_tokens.weight"
# Sizes of encoders that checkpoints name, as in their config.json.
# Source: the model cards' configurations on the Hugging Face hub.
_KNOWN_SIZES: Final[dict[str, dict[str, Any]]] = {
    "flan-t5-large": {
        "d_model": 1024,
        "d_ff": 2816,
        "d_kv": 64,
        "num_heads": 16,
        "num_layers": 24,
        "vocab_size": 32128,
        "feed_forward_proj": "gated-gelu",
    },
}


def open_text_encoder(folder: Path, width: int | None, from_pretrained: Callable[..., Any]) -> Any:
    """Load the encoder in float32, whatever its file holds: half precision overflows in T5.

    Args:
        folder: a T5 or T5 encoder in Hugging Face form.
        width: of the encoder's output that the network takes; None for any.
        from_pretrained: ``transformers.T5EncoderModel.from_pretrained``, because the core does not
            import that library.

    Returns:
        the module, in evaluation mode and without gradients.

    Raises:
        UsageError: it is missing, no T5, or one of another width.
        CheckpointError: tensors are missing, misshaped, unknown or cannot be read.
    """
    import torch

    check_encoder_config(folder, width)
    try:
        with _quiet_library():
            encoder, info = from_pretrained(
                str(folder), local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # the library raises whatever its readers raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{folder}: the text encoder cannot be read ({reason})") from error
    _check_names(folder, info)
    return encoder.eval().requires_grad_(False)


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """Hold back what the library prints on missing names, which become one error here."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def check_encoder_config(folder: Path, width: int | None, name: str | None = None) -> None:
    """Check config.json of an encoder's folder without loading its weights.

    Args:
        folder: in Hugging Face form.
        width: of the encoder's output that the network takes; None for any.
        name: of the encoder that the checkpoint was trained with, if it says.

    Raises:
        UsageError: it is missing, no T5, one of another width, or another one than the named one.
        CheckpointError: config.json cannot be read.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: no config.json there; name a T5 encoder in Hugging Face form")
    config = read_json(folder / "config.json")
    if config.get("model_type") != "t5":
        raise UsageError(
            f"{folder}: expected a T5, got model_type {config.get('model_type')!r}; use the text "
            "encoder that the network was trained with"
        )
    if width is not None and config.get("d_model") != width:
        raise UsageError(
            f"{folder}: this T5 is {config.get('d_model')} wide but the network takes {width}; "
            "use the text encoder that the network was trained with"
        )
    sizes = _KNOWN_SIZES.get((name or "").rpartition("/")[2], {})
    for key, value in sizes.items():
        # Small test models carry the name too; their own width contradicts it.
        if width == sizes["d_model"] and config.get(key) != value:
            raise UsageError(
                f"{folder}: {key} is {config.get(key)!r}, but the network was trained with {name}, "
                f"whose {key} is {value!r}; use that text encoder"
            )


def check_tokenizer(folder: Path, tokenizer: Tokenizer, config: Any) -> None:
    """Check that a tokenizer's ids are the encoder's.

    Args:
        folder: of the tokenizer, for messages.
        tokenizer: opened.
        config: of the encoder: ``vocab_size``, ``eos_token_id`` and ``pad_token_id``.

    Raises:
        UsageError: it has more tokens than the encoder, or other special ids.
    """
    num_tokens = tokenizer.rust.get_vocab_size()
    if num_tokens > config.vocab_size:
        raise UsageError(
            f"{folder}: this tokenizer has {num_tokens} tokens but the text encoder has "
            f"{config.vocab_size}; use the tokenizer that the encoder was trained with"
        )
    for name, actual in (("eos_token_id", tokenizer.eos_id), ("pad_token_id", tokenizer.pad_id)):
        expected = getattr(config, name, None)
        if expected is not None and actual != expected:
            raise UsageError(
                f"{folder}: this tokenizer's {name} is {actual} but the text encoder's is "
                f"{expected}; use the tokenizer that the encoder was trained with"
            )


def _check_names(folder: Path, info: dict[str, Any]) -> None:
    absent = set(info["missing_keys"])
    if _EMBEDDING in absent:
        absent.discard(_EMBEDDING_COPY)
    missing = sorted(absent) + sorted(str(key) for key in info["mismatched_keys"])
    names = sorted(info["unexpected_keys"])
    unknown = [name for name in names if name != _EMBEDDING and not _UNUSED_PARTS.match(name)]
    if not missing and not unknown:
        return
    parts = [
        f"{len(keys)} tensors are {what}, first {keys[0]}"
        for keys, what in ((missing, "missing or of another shape"), (unknown, "unknown"))
        if keys
    ]
    prefix = _wrapper_prefix(missing, unknown)
    hint = f"remove the prefix {prefix!r} of a wrapper" if prefix else "download the folder again"
    raise CheckpointError(f"{folder}: {' and '.join(parts)}; {hint}")


def _wrapper_prefix(missing: list[str], unknown: list[str]) -> str:
    """What stands before the missing names in the file, if that is all that is wrong."""
    for name in unknown:
        for expected in missing:
            if name.endswith(f".{expected}"):
                return name.removesuffix(expected)
    return ""
