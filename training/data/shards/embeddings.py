"""Embeddings in shards: the description of their encoder, and the members that store them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from minit2i_deploy.errors import TrainingError
from minit2i_deploy.io.files import sha256_files
from minit2i_deploy.tokenizer import FILE_NAME
from minit2i_deploy.training.data.sample import EMBEDDING_SUFFIX, BadSampleError
from minit2i_deploy.training.data.shards.index import ShardIndex
from minit2i_deploy.training.data.shards.tar import RawSample

if TYPE_CHECKING:
    from minit2i_deploy.training.recipe.recipe import Recipe

DTYPES: Final[Mapping[str, torch.dtype]] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_TENSOR: Final = "context"


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingInfo:
    """A shard's description of its embeddings; a run refuses those of another encoder.

    Args:
        encoder_sha256: of the encoder's configuration and weights.
        tokenizer_sha256: of tokenizer.json.
        prompt_length: tokens that captions were truncated to.
        width: of the values.
        caption: member of a sample that was embedded, as ``SourceRecipe.caption``.
        dtype: "fp32", or "bf16" for values rounded once.
    """

    encoder_sha256: str
    tokenizer_sha256: str
    prompt_length: int
    width: int
    caption: str
    dtype: str

    @classmethod
    def of(
        cls,
        encoder: Path,
        tokenizer: Path,
        *,
        prompt_length: int,
        width: int,
        caption: str,
        dtype: str,
    ) -> EmbeddingInfo:
        """Hash the two folders.

        Raises:
            TrainingError: a file is missing.
        """
        weights = sorted(encoder.glob("*.safetensors")) or sorted(encoder.glob("*.bin"))
        try:
            return cls(
                encoder_sha256=sha256_files([encoder / "config.json", *weights], encoder),
                tokenizer_sha256=sha256_files([tokenizer / FILE_NAME], tokenizer),
                prompt_length=prompt_length,
                width=width,
                caption=caption,
                dtype=dtype,
            )
        except OSError as error:
            raise TrainingError(
                f"{error.filename}: cannot be read ({error.strerror}); name the folders of a T5 "
                "encoder and of its tokenizer"
            ) from error

    def to_json(self) -> str:
        """The contents of a shard's first member, TEXT_MEMBER."""
        return json.dumps(dataclasses.asdict(self))


def serialize_context(values: Tensor, dtype: str) -> bytes:
    """The member that stores one sample's embedding.

    Args:
        values: float32 [tokens, width].
        dtype: a name of DTYPES.
    """
    return save({_TENSOR: values.to(DTYPES[dtype]).contiguous()})


def read_context(raw: RawSample) -> Tensor:
    """The embedding of a sample.

    Returns:
        [tokens, width], float32 or bfloat16 as stored.

    Raises:
        BadSampleError: there is none, or it is corrupt.
    """
    data = raw.members.get(EMBEDDING_SUFFIX)
    if data is None:
        raise BadSampleError("no embedding", f"no .{EMBEDDING_SUFFIX}")
    try:
        values = load(data)[_TENSOR]
    except (KeyError, SafetensorError, ValueError) as error:
        raise BadSampleError("embedding cannot be read", " ".join(str(error).split())) from error
    if values.ndim != 2 or not len(values):
        raise BadSampleError("embedding cannot be read", f"shape {list(values.shape)}")
    return values


def check_embedding_info(shards: Sequence[ShardIndex], recipe: Recipe, caption: str) -> None:
    """Compare the shards' description of their embeddings with the recipe.

    Args:
        shards: all with the same description.
        recipe: its text encoder, tokenizer and network.
        caption: of the source.

    Raises:
        TrainingError: another encoder, tokenizer, length, width or caption.
    """
    shard = next(shard for shard in shards if len(shard))
    actual: Mapping[str, Any] = shard.text or {}
    expected = EmbeddingInfo.of(
        recipe.text_encoder_folder,
        recipe.tokenizer_folder,
        prompt_length=recipe.model.prompt_length,
        width=recipe.model.txt_input_size,
        caption=caption,
        dtype=str(actual.get("dtype")),
    )
    for key, value in dataclasses.asdict(expected).items():
        if actual.get(key) != value:
            raise TrainingError(
                f"{shard.url}: was embedded with {key} {actual.get(key)!r}, but the recipe has "
                f"{value!r}; run minit2i data embed with the recipe's encoder, or use its shards"
            )
    if actual["dtype"] not in DTYPES:
        raise TrainingError(
            f"{shard.url}: embeddings of type {actual['dtype']!r} are not supported"
        )
