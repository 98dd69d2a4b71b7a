"""A sample's image and caption, or the reason why it is bad."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from minit2i_deploy.training.data.shards.tar import RawSample
from minit2i_deploy.training.recipe.data import JSON_PREFIX

IMAGE_SUFFIXES: Final = ("jpg", "jpeg", "png", "webp")
# The member that `minit2i data embed` adds: {"context": [tokens, width]}.
EMBEDDING_SUFFIX: Final = "context.safetensors"


class BadSampleError(Exception):
    """A sample that is skipped.

    Args:
        reason: one of a few fixed texts, by which bad samples are counted.
        detail: of this sample, or "".
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sample:
    """One image and its caption.

    Args:
        key: name of the sample.
        image: uint8 [size, size, 3].
        caption: its text.
        context: [tokens, width], the encoder's values at the real tokens; None where the caption
            is encoded while training.
    """

    key: str
    image: UInt8[np.ndarray, "size size 3"]
    caption: str
    context: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BadSample:
    """A sample that was skipped.

    Args:
        shard, key: where it is.
        reason: reason and detail.
    """

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}: sample {self.key}: {self.reason}"


class Source(Protocol):
    """Samples by number; the same number gives the same sample at any time, in any process."""

    @property
    def num_samples(self) -> int | None:
        """Samples of an epoch; None where every number is another sample."""

    def sample(self, number: int) -> Sample | BadSample:
        """Sample number ``number`` of this source, counted over all epochs."""

    def substitute(self, slot: int, attempt: int) -> Sample | BadSample:
        """A sample in place of a bad one, drawn from the seed, the slot and the attempt."""


def find_image(raw: RawSample) -> bytes:
    """The image file of a sample.

    Raises:
        BadSampleError: there is none.
    """
    for suffix in IMAGE_SUFFIXES:
        if suffix in raw.members:
            return raw.members[suffix]
    present = ", ".join(sorted(raw.members))
    raise BadSampleError("no image", f"has {present}, expected {' or '.join(IMAGE_SUFFIXES)}")


def find_caption(raw: RawSample, caption: str) -> str:
    """The caption of a sample.

    Args:
        raw: its files.
        caption: as ``SourceRecipe.caption``.

    Raises:
        BadSampleError: there is none, or it is not text.
    """
    suffix = "json" if caption.startswith(JSON_PREFIX) else caption.lower()
    if suffix not in raw.members:
        raise BadSampleError("no caption", f"no .{suffix}")
    try:
        text = raw.members[suffix].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadSampleError("caption is not UTF-8", f"byte {error.start}") from error
    if suffix != caption.lower():
        text = _json_field(text, caption.removeprefix(JSON_PREFIX))
    if not text.strip():
        raise BadSampleError("caption is empty")
    if "\0" in text:
        raise BadSampleError("caption has a NUL character")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise BadSampleError("caption is not valid Unicode")
    return text


def check_members(raw: RawSample) -> None:
    """Refuse a sample with two files of one suffix.

    Raises:
        BadSampleError: it has two.
    """
    if raw.duplicate_suffix is not None:
        raise BadSampleError("duplicate file", f".{raw.duplicate_suffix}")


def _json_field(text: str, name: str) -> str:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadSampleError("caption is not JSON") from error
    value = values.get(name) if isinstance(values, dict) else None
    if not isinstance(value, str):
        raise BadSampleError("no caption", f"no string in field {name}")
    return value
