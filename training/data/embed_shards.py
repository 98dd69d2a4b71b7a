"""Shards with the embeddings of their captions, so that the encoder leaves the training loop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.io.temporary_folders import gone_if_empty
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.training.captions import FrozenText
from minit2i_deploy.training.data import storage
from minit2i_deploy.training.data.embedded_captions import EmbeddingInfo, write_context
from minit2i_deploy.training.data.sample import (
    EMBEDDING_SUFFIX,
    BadSample,
    BadSampleError,
    caption_of,
    check_members,
)
from minit2i_deploy.training.data.shard_index import index_of
from minit2i_deploy.training.data.shard_writer import write_shard
from minit2i_deploy.training.data.tar import Scan, walk
from minit2i_deploy.training.recipe.data import SourceRecipe


@dataclass(kw_only=True, slots=True)
class Embedded:
    """What was embedded.

    Args:
        num_samples, num_tokens: that were written now.
        num_shards: that stand in the folder.
        num_kept: shards among them that stood there before.
        bad: samples that were left out, and why.
    """

    num_samples: int = 0
    num_tokens: int = 0
    num_shards: int = 0
    num_kept: int = 0
    bad: list[BadSample] = field(default_factory=list)


def open_encoder(
    encoder: Path, tokenizer: Path, *, prompt_length: int, caption: str, dtype: str
) -> tuple[FrozenText, EmbeddingInfo]:
    """The encoder as training opens it, and what shards will say of it.

    Raises:
        TrainingError: there is no encoder, or the tokenizer is not its own.
        BundleError: there is no tokenizer.
        UsageError: a length below 1, or a caption that is no member of a sample.
    """
    SourceRecipe(shards=("-",), caption=caption)
    try:
        width = int(json.loads((encoder / "config.json").read_bytes())["d_model"])
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{encoder}: has no config.json of a T5 encoder; name a folder in Hugging Face form"
        ) from error
    text = FrozenText(encoder, tokenizer, prompt_length, width)
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
    text: FrozenText,
    info: EmbeddingInfo,
    *,
    bad_limit: int,
    progress: Progress = no_progress,
) -> Embedded:
    """Copy shards and add each caption's values at its real tokens.

    Shards that stand in ``out`` already, embedded in the same way, are left as they are: after an
    interruption the same call goes on.

    Args:
        urls: shards by path or address; their names must differ.
        out: folder of the new shards.
        text: the frozen encoder.
        info: what the shards will say of it.
        bad_limit: samples without a usable caption that may be left out.
        progress: called with the share that is done and the captions so far.

    Raises:
        UsageError: two shards of one name, or a folder that may not be written.
        TrainingError: a shard is damaged, or more bad samples than the limit.
    """
    done = Embedded()
    with gone_if_empty(out):
        targets = _targets(urls, out)
        for number, (url, target) in enumerate(zip(urls, targets, strict=True)):
            part = stage_of(progress, number / len(urls), (number + 1) / len(urls))
            if target.exists():
                _check_same(target, info)
                done.num_kept += 1
            else:
                samples = _samples(url, text, info, done, bad_limit, part)
                write_shard(target, samples, info.to_json())
            done.num_shards += 1
            part(1.0, _count(done))
    return done


def _targets(urls: Sequence[str], out: Path) -> list[Path]:
    targets = [out / url.rpartition("/")[2] for url in urls]
    for url, target in zip(urls, targets, strict=True):
        if targets.count(target) > 1:
            raise UsageError(f"{url}: another shard is called {target.name}, too; embed it alone")
        if target.resolve() == Path(url).resolve():
            raise UsageError(f"{out}: holds the shards themselves; name another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out}: cannot be made ({error.strerror}); name a folder you can write"
        ) from error
    return targets


def _check_same(target: Path, info: EmbeddingInfo) -> None:
    found: Mapping[str, object] = index_of(str(target)).text or {}
    for key, value in dataclasses.asdict(info).items():
        if found.get(key) != value:
            raise TrainingError(
                f"{target}: stands there with {key} {found.get(key)!r}, but {value!r} was asked "
                "for; name another folder"
            )


def _samples(
    url: str,
    text: FrozenText,
    info: EmbeddingInfo,
    done: Embedded,
    bad_limit: int,
    progress: Progress,
) -> Iterator[tuple[str, dict[str, bytes]]]:
    size, found = storage.num_bytes(url), Scan()
    with storage.stream_of(url) as stream:
        for raw in walk(url, stream, found):
            try:
                check_members(raw)
                values = text.encode(caption_of(raw, info.caption))
            except BadSampleError as error:
                done.bad.append(BadSample(shard=url, key=raw.key, reason=str(error)))
                _check_limit(done, bad_limit)
                continue
            done.num_samples += 1
            done.num_tokens += len(values)
            yield raw.key, {**raw.members, EMBEDDING_SUFFIX: write_context(values, info.dtype)}
            progress(min(1.0, found.stop / max(size, 1)), _count(done))


def _count(done: Embedded) -> str:
    return f"{done.num_samples} captions"


def _check_limit(done: Embedded, bad_limit: int) -> None:
    if len(done.bad) > bad_limit:
        allowed = f"at most {bad_limit} are left out" if bad_limit else "none is left out"
        raise TrainingError(f"{done.bad[-1]}; {allowed} unless --bad-limit says more")
