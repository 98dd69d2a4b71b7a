"""Embedding of shards: captions are encoded once, and training runs without the encoder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.io.files import remove_if_empty
from minit2i_deploy.io.lock import output_lock
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.training.caption_encoder import CaptionEncoder
from minit2i_deploy.training.data.sample import (
    EMBEDDING_SUFFIX,
    BadSample,
    BadSampleError,
    check_members,
    find_caption,
)
from minit2i_deploy.training.data.shards import storage
from minit2i_deploy.training.data.shards.embeddings import EmbeddingInfo, serialize_context
from minit2i_deploy.training.data.shards.index import open_index
from minit2i_deploy.training.data.shards.tar import Scan, iterate_samples
from minit2i_deploy.training.data.shards.writer import write_shard
from minit2i_deploy.training.recipe.data import SourceRecipe


@dataclass(kw_only=True, slots=True)
class EmbedResult:
    """Counts of an embedding run.

    Args:
        num_samples, num_tokens: written by this run.
        num_shards: in the folder now.
        num_existing: shards among them that existed before.
        bad: samples that were excluded, and why.
    """

    num_samples: int = 0
    num_tokens: int = 0
    num_shards: int = 0
    num_existing: int = 0
    bad: list[BadSample] = field(default_factory=list)


def open_encoder(
    encoder: Path, tokenizer: Path, *, prompt_length: int, caption: str, dtype: str
) -> tuple[CaptionEncoder, EmbeddingInfo]:
    """The encoder as training opens it, and the description of its embeddings.

    Raises:
        TrainingError: there is no encoder, or the tokenizer does not match it.
        BundleError: there is no tokenizer.
        UsageError: a length below 1, or a caption that cannot be a member of a sample.
    """
    SourceRecipe(shards=("-",), caption=caption)
    try:
        width = int(json.loads((encoder / "config.json").read_bytes())["d_model"])
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{encoder}: has no config.json of a T5 encoder; name a folder in Hugging Face form"
        ) from error
    text = CaptionEncoder(encoder, tokenizer, prompt_length, width)
    info = EmbeddingInfo.of(
        encoder,
        tokenizer,
        prompt_length=prompt_length,
        width=width,
        caption=caption,
        dtype=dtype,
    )
    return text, info


def embed_shards(
    urls: Sequence[str],
    out: Path,
    text: CaptionEncoder,
    info: EmbeddingInfo,
    *,
    bad_limit: int,
    progress: Progress = no_progress,
) -> EmbedResult:
    """Copy shards and add each caption's values at its real tokens.

    Shards that exist in ``out``, embedded in the same way, are not changed: after an interruption
    the same call continues.

    Args:
        urls: shards by path or address; their names must differ.
        out: folder of the new shards.
        text: the frozen encoder.
        info: description of the embeddings.
        bad_limit: samples without a usable caption that may be excluded.
        progress: called with the share that is done and the captions so far.

    Raises:
        UsageError: two shards of one name, or a folder that cannot be written.
        TrainingError: a shard is corrupt, or more bad samples than the limit.
    """
    result = EmbedResult()
    with output_lock(out), remove_if_empty(out):
        targets = shard_targets(urls, out)
        for number, (url, target) in enumerate(zip(urls, targets, strict=True)):
            part = stage_of(progress, number / len(urls), (number + 1) / len(urls))
            if target.exists():
                _check_same(target, info)
                result.num_existing += 1
            else:
                samples = embedded_samples(url, text, info, result, bad_limit, part)
                write_shard(target, samples, info.to_json())
            result.num_shards += 1
            part(1.0, _count(result))
    return result


def shard_targets(urls: Sequence[str], out: Path) -> list[Path]:
    """The new shards, one for each of ``urls``, in ``out``, which is made.

    Raises:
        UsageError: two shards of one name, or a folder that cannot be written or is their own.
    """
    targets = [out / url.rpartition("/")[2] for url in urls]
    for url, target in zip(urls, targets, strict=True):
        if targets.count(target) > 1:
            raise UsageError(f"{url}: two shards are named {target.name}; embed them separately")
        if target.resolve() == Path(url).resolve():
            raise UsageError(f"{out}: is the folder of the shards themselves; name another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out}: cannot be created ({error.strerror}); choose a folder you can write"
        ) from error
    return targets


def _check_same(target: Path, info: EmbeddingInfo) -> None:
    existing: Mapping[str, object] = open_index(str(target)).text or {}
    for key, value in dataclasses.asdict(info).items():
        if existing.get(key) != value:
            raise TrainingError(
                f"{target}: exists with {key} {existing.get(key)!r}, expected {value!r}; name "
                "another folder"
            )


def embedded_samples(
    url: str,
    text: CaptionEncoder,
    info: EmbeddingInfo,
    result: EmbedResult,
    bad_limit: int,
    progress: Progress,
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of a shard with the values of their captions, counted in ``result``.

    Raises:
        TrainingError: the shard is corrupt, or ``result`` has more bad samples than the limit.
    """
    size, scan = storage.size_bytes(url), Scan()
    with storage.open_stream(url) as stream:
        for raw in iterate_samples(url, stream, scan):
            try:
                check_members(raw)
                values = text.encode(find_caption(raw, info.caption))
            except BadSampleError as error:
                result.bad.append(BadSample(shard=url, key=raw.key, reason=str(error)))
                _check_limit(result, bad_limit)
                continue
            result.num_samples += 1
            result.num_tokens += len(values)
            yield raw.key, {**raw.members, EMBEDDING_SUFFIX: serialize_context(values, info.dtype)}
            progress(min(1.0, scan.stop / max(size, 1)), _count(result))


def _count(result: EmbedResult) -> str:
    return f"{result.num_samples} captions"


def _check_limit(result: EmbedResult, bad_limit: int) -> None:
    if len(result.bad) > bad_limit:
        raise TrainingError(
            f"{result.bad[-1]}; {len(result.bad)} bad samples exceed --bad-limit {bad_limit}"
        )
