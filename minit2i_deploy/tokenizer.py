"""Prompts to T5 token ids; truncation is reported, not silent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Int64

from minit2i_deploy.errors import BundleError, UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as RustTokenizer

FILE_NAME: Final = "tokenizer.json"
_PANIC: Final = "PanicException"
EOS_TOKEN: Final = "</s>"
PAD_TOKEN: Final = "<pad>"
_TAIL_CHARACTERS: Final = 20


def find_tokenizer(text_encoder: Path) -> Path:
    """The folder of a text encoder's tokenizer.json: ``tokenizer`` in it, itself, or beside it.

    Raises:
        UsageError: it is in none of them.
    """
    folders = (text_encoder / "tokenizer", text_encoder, text_encoder.parent / "tokenizer")
    for folder in folders:
        if (folder / FILE_NAME).is_file():
            return folder
    raise UsageError(
        f"{text_encoder}: no {FILE_NAME} in its tokenizer/, in itself or in ../tokenizer; save the "
        "T5 tokenizer of transformers there with save_pretrained"
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """One tokenized prompt.

    Args:
        text: the prompt.
        ids: int64 [tokens], at most prompt_length, the last one is the end token.
        num_characters_used: number of characters of the text that the ids cover.
        truncated: whether the rest of the text was cut off.
    """

    text: str
    ids: Int64[np.ndarray, " tokens"]
    num_characters_used: int
    truncated: bool

    @property
    def notice(self) -> str | None:
        """One line that says where the prompt was truncated, or None."""
        if not self.truncated:
            return None
        tail = self.text[: self.num_characters_used][-_TAIL_CHARACTERS:]
        return f"prompt cut after {self.num_characters_used} characters: '...{tail}'"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokenizer:
    """A T5 tokenizer that ends every prompt with the end token and never pads.

    Args:
        rust: the ``tokenizers`` object; its padding, truncation and special tokens are unused.
        prompt_length: most tokens of a prompt, the end token included.
        eos_id: id of the end token.
        pad_id: id of the padding that a batch needs after shorter prompts.
    """

    rust: RustTokenizer
    prompt_length: int
    eos_id: int
    pad_id: int

    @classmethod
    def open(cls, folder: str | os.PathLike[str], prompt_length: int) -> Tokenizer:
        """Read ``tokenizer.json`` from a folder.

        Args:
            folder: folder in Hugging Face form.
            prompt_length: most tokens of a prompt, at least 1.

        Raises:
            UsageError: prompt_length is below 1.
            BundleError: the file is missing, unreadable or has no end or pad token.
        """
        from tokenizers import Tokenizer as RustTokenizer

        if prompt_length < 1:
            raise UsageError(f"prompt_length must be at least 1, got {prompt_length}")
        path = Path(folder) / FILE_NAME
        try:
            # Not from_file, whose errors do not tell a missing file from a corrupt one.
            rust = RustTokenizer.from_buffer(path.read_bytes())
        except OSError as error:
            raise BundleError(
                f"{path}: cannot be read ({error.strerror}); name the folder of a T5 tokenizer"
            ) from error
        except BaseException as error:
            # The library raises bare Exception on bad JSON, and a panic of Rust, which is no
            # Exception, on a corrupt character map.
            if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
                raise
            raise BundleError(
                f"{path}: not a tokenizer ({error}); re-run minit2i export"
            ) from error
        # The file's settings of truncation and padding are those of whoever saved it.
        rust.no_truncation()
        rust.no_padding()
        ids = {token: rust.token_to_id(token) for token in (EOS_TOKEN, PAD_TOKEN)}
        for token, token_id in ids.items():
            if token_id is None:
                raise BundleError(f"{path}: not a T5 tokenizer, it has no token {token}")
        return cls(
            rust=rust,
            prompt_length=prompt_length,
            eos_id=ids[EOS_TOKEN],
            pad_id=ids[PAD_TOKEN],
        )

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Tokenize prompts, each on its own; an empty one is the end token alone.

        Args:
            texts: prompts of any length.

        Raises:
            UsageError: not a list of strings, or one with a NUL character or broken Unicode.
        """
        if isinstance(texts, str):
            raise UsageError("encode takes a list of texts, got one text; write [text]")
        return [self._encode(index, text) for index, text in enumerate(texts)]

    def _encode(self, index: int, text: str) -> Encoded:
        _check_text(index, text)
        # Special tokens are added below: a truncated prompt must end with the end token too.
        encoding = self.rust.encode(text, add_special_tokens=False)
        room = self.prompt_length - 1
        truncated = len(encoding.ids) > room
        used = len(text)
        if truncated:
            used = encoding.offsets[room - 1][1] if room else 0
        ids = np.array([*encoding.ids[:room], self.eos_id], dtype=np.int64)
        return Encoded(text=text, ids=ids, num_characters_used=used, truncated=truncated)


def _check_text(index: int, text: object) -> None:
    if not isinstance(text, str):
        raise UsageError(f"prompt {index} must be a string, got {type(text).__name__}")
    # In C++ a NUL ends a string, so the same prompt would give another image there.
    position = text.find("\0")
    if position >= 0:
        raise UsageError(f"prompt {index} has a NUL character at position {position}; remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"prompt {index} is not valid Unicode at position {error.start}; pass UTF-8 text"
        ) from error
