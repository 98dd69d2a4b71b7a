"""What a set of shards holds, and what in it training would pass over."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Final

import numpy as np

from minit2i_deploy.errors import TrainingError
from minit2i_deploy.progress import Progress, no_progress
from minit2i_deploy.tokenizer import Tokenizer
from minit2i_deploy.training.data import storage
from minit2i_deploy.training.data.embedded_captions import read_context
from minit2i_deploy.training.data.image import read_picture
from minit2i_deploy.training.data.sample import (
    BadSample,
    BadSampleError,
    caption_of,
    check_members,
    picture_of,
)
from minit2i_deploy.training.data.shard_index import index_from, write_index
from minit2i_deploy.training.data.tar import RawSample, Scan, check_plain, walk
from minit2i_deploy.training.recipe.data import SourceRecipe

EXAMPLES: Final = 3
_AT_ONCE: Final = 64
_THREADS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Lowest, middle and highest of some values, and how many there are."""

    count: int
    lowest: float
    median: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None where there are no values."""
        if not len(values):
            return None
        low, middle, high = np.quantile(np.asarray(values, np.float64), [0, 0.5, 1])
        return cls(count=len(values), lowest=float(low), median=float(middle), highest=float(high))


@dataclass(kw_only=True, slots=True)
class Report:
    """What was found.

    Args:
        shards, empty, damaged: names of shards, of those without samples, and of those that
            cannot be read with the reason.
        num_samples: bad ones included.
        num_bytes: of the shards.
        seconds: that reading and decoding took.
        bad: how many samples are bad for each reason.
        examples: the first of them for each reason.
        duplicates: keys that came before.
        suffixes: how many samples hold each kind of file.
        short_sides, aspects: of the pictures, in pixels and as width / height.
        characters, tokens: of the captions; tokens with a tokenizer alone.
        truncated: captions with more tokens than the model takes.
        embedded: what the shards say of their embeddings.
    """

    shards: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    num_samples: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    bad: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    duplicates: int = 0
    duplicate_examples: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)
    short_sides: array[int] = field(default_factory=lambda: array("L"))
    aspects: array[float] = field(default_factory=lambda: array("f"))
    characters: array[int] = field(default_factory=lambda: array("L"))
    tokens: array[int] = field(default_factory=lambda: array("L"))
    truncated: int = 0
    embedded: list[Mapping[str, Any]] = field(default_factory=list)
    _keys: set[int] = field(default_factory=set, repr=False)

    @property
    def num_bad(self) -> int:
        """Bad samples of every reason."""
        return sum(self.bad.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Looked:
    """One sample, looked at: what is wrong with it, or its figures."""

    raw: RawSample
    wrong: BadSampleError | None = None
    width: int = 0
    height: int = 0
    caption: str = ""


def check_shards(
    urls: Sequence[str],
    source: SourceRecipe,
    *,
    tokenizer: Tokenizer | None = None,
    keep_index: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Read every sample as training would.

    Args:
        urls: shards by path or address.
        source: caption and least side, as in a recipe.
        tokenizer: counts the captions' tokens.
        keep_index: write each local shard's index beside it.
        progress: called with the share of shards that is done and the samples so far.
    """
    report, began = Report(), time.monotonic()
    with ThreadPoolExecutor(_THREADS) as pool:
        for number, url in enumerate(urls):
            report.shards.append(url)

            def looked(share: float, done: int = number) -> None:
                progress((done + share) / len(urls), f"{report.num_samples} samples")

            try:
                _check_shard(report, url, source, tokenizer, keep_index, pool, looked)
            except TrainingError as error:
                report.damaged[url] = str(error)
    report.seconds = time.monotonic() - began
    return report


def _check_shard(
    report: Report,
    url: str,
    source: SourceRecipe,
    tokenizer: Tokenizer | None,
    keep_index: bool,
    pool: ThreadPoolExecutor,
    looked: Callable[[float], None],
) -> None:
    size = storage.num_bytes(url)
    found, before = Scan(), report.num_samples
    with storage.stream_of(url) as stream:
        check_plain(url, stream.peek(8)[:8] if hasattr(stream, "peek") else b"")
        for part in _parts(walk(url, stream, found)):
            look = partial(_look, source=source, embedded=found.text is not None)
            for item in pool.map(look, part):
                _count(report, url, item, tokenizer)
            looked(found.stop / max(size, 1))
    index = index_from(url, url, size, found)
    report.num_bytes += size
    if report.num_samples == before:
        report.empty.append(url)
    if index.text is not None and index.text not in report.embedded:
        report.embedded.append(index.text)
    if keep_index and not storage.is_remote(url):
        write_index(index)


def _parts(samples: Iterable[RawSample]) -> Iterator[list[RawSample]]:
    stream = iter(samples)
    while part := list(islice(stream, _AT_ONCE)):
        yield part


def _look(raw: RawSample, source: SourceRecipe, embedded: bool) -> _Looked:
    try:
        check_members(raw)
        caption = caption_of(raw, source.caption)
        if embedded:
            read_context(raw)
        width, height = read_picture(picture_of(raw)).size
        if min(width, height) < source.min_side:
            raise BadSampleError("picture too small", f"{width} x {height}")
    except BadSampleError as error:
        return _Looked(raw=raw, wrong=error)
    return _Looked(raw=raw, width=width, height=height, caption=caption)


def _count(report: Report, url: str, item: _Looked, tokenizer: Tokenizer | None) -> None:
    report.num_samples += 1
    report.suffixes.update(item.raw.members.keys())
    digest = hash(item.raw.key)
    if digest in report._keys:
        report.duplicates += 1
        if len(report.duplicate_examples) < EXAMPLES:
            report.duplicate_examples.append(f"{url}: {item.raw.key}")
    report._keys.add(digest)
    if item.wrong is not None:
        reason = item.wrong.reason
        report.bad[reason] += 1
        shown = report.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append(str(BadSample(shard=url, key=item.raw.key, reason=str(item.wrong))))
        return
    report.short_sides.append(min(item.width, item.height))
    report.aspects.append(item.width / item.height)
    report.characters.append(len(item.caption))
    if tokenizer is not None:
        # The end token is one of them.
        count = len(tokenizer.rust.encode(item.caption, add_special_tokens=False).ids) + 1
        report.tokens.append(count)
        report.truncated += count > tokenizer.prompt_length
