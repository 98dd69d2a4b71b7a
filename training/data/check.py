"""Checks of training data before a run: contents of shards or an image folder, and bad samples."""

from __future__ import annotations

import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from minit2i_deploy.errors import TrainingError
from minit2i_deploy.progress import Progress, no_progress, stage_of
from minit2i_deploy.tokenizer import Tokenizer
from minit2i_deploy.training.data.image_folder import ImageFolder
from minit2i_deploy.training.data.images import decode_image
from minit2i_deploy.training.data.sample import (
    BadSample,
    BadSampleError,
    check_members,
    find_caption,
    find_image,
)
from minit2i_deploy.training.data.shards import storage
from minit2i_deploy.training.data.shards.embeddings import read_context
from minit2i_deploy.training.data.shards.index import index_from_scan, write_index
from minit2i_deploy.training.data.shards.tar import (
    RawSample,
    Scan,
    check_uncompressed,
    iterate_samples,
)
from minit2i_deploy.training.recipe.data import SourceRecipe

EXAMPLES: Final = 3
_CHUNK_SAMPLES: Final = 64
_NUM_THREADS: Final = 4
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantiles:
    """Lowest, median and highest of some values, and their number."""

    count: int
    lowest: float
    median: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles | None:
        """None where there are no values."""
        if not len(values):
            return None
        low, middle, high = np.quantile(np.asarray(values, np.float64), [0, 0.5, 1])
        return cls(count=len(values), lowest=float(low), median=float(middle), highest=float(high))


@dataclass(kw_only=True, slots=True)
class DataReport:
    """Contents of the data.

    Args:
        shards, empty: names of all shards, and of those without samples.
        folder: of images, where one was checked in place of shards.
        corrupt: names of shards that cannot be read, and the reason.
        num_samples: bad ones included.
        num_bytes: of the shards, or of the folder's images and captions.
        seconds: time of reading and decoding.
        bad: number of bad samples by reason.
        examples: the first of them by reason.
        duplicates: keys that came before.
        suffixes: number of samples with a file of each suffix.
        short_sides, aspects: of the images, in pixels and as width / height.
        characters, tokens: of the captions; tokens only with a tokenizer.
        truncated: captions with more tokens than the model takes.
        embedded: the shards' descriptions of their embeddings.
        unused_captions: captions of a folder that belong to no image.
    """

    shards: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    corrupt: dict[str, str] = field(default_factory=dict)
    folder: str | None = None
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
    unused_captions: list[str] = field(default_factory=list)
    _keys: set[int] = field(default_factory=set, repr=False)

    @property
    def num_bad(self) -> int:
        """Bad samples of every reason."""
        return sum(self.bad.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class _CheckedSample:
    """One sample: its defect, or its measures."""

    key: str
    suffixes: Sequence[str] = ()
    defect: BadSampleError | None = None
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
) -> DataReport:
    """Read every sample as training would.

    Args:
        urls: shards by path or address.
        source: caption and least side, as in a recipe.
        tokenizer: counts the captions' tokens.
        keep_index: write each local shard's index beside it.
        progress: called with the share of the shards that is done and the samples so far.
    """
    report, start = DataReport(), time.monotonic()
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for number, url in enumerate(urls):
            report.shards.append(url)
            part = stage_of(progress, number / len(urls), (number + 1) / len(urls))
            try:
                _check_shard(report, url, source, tokenizer, keep_index, pool, part)
            except TrainingError as error:
                report.corrupt[url] = str(error)
    report.seconds = time.monotonic() - start
    return report


def check_folder(
    path: Path,
    *,
    min_side: int = 0,
    tokenizer: Tokenizer | None = None,
    progress: Progress = no_progress,
) -> DataReport:
    """Read every image and caption of a folder as ``pack_folder`` would.

    Args:
        path: of the folder, as ``ImageFolder`` reads it.
        min_side: images whose shorter side has fewer pixels are bad.
        tokenizer: counts the captions' tokens.
        progress: called with the share that is done and the samples so far.

    Raises:
        UsageError: no such folder, or no image in it.
        TrainingError: metadata.jsonl is corrupt.
    """
    folder, start = ImageFolder.open(path), time.monotonic()
    source = SourceRecipe(shards=("-",), min_side=min_side)
    report = DataReport(folder=str(path), unused_captions=folder.unused_captions())

    def check(image: Path) -> tuple[_CheckedSample, int]:
        try:
            raw = folder.read(image)
        except BadSampleError as error:
            return _CheckedSample(key=folder.key(image), defect=error), 0
        num_bytes = sum(map(len, raw.members.values()))
        return _check_sample(raw, source, is_embedded=False), num_bytes

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for chunk in _chunks(folder.images):
            for sample, num_bytes in pool.map(check, chunk):
                report.num_bytes += num_bytes
                _count(report, str(path), sample, tokenizer)
            progress(report.num_samples / len(folder.images), f"{report.num_samples} images")
    report.seconds = time.monotonic() - start
    return report


def _check_shard(
    report: DataReport,
    url: str,
    source: SourceRecipe,
    tokenizer: Tokenizer | None,
    keep_index: bool,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> None:
    size = storage.size_bytes(url)
    scan, num_before = Scan(), report.num_samples
    with storage.open_stream(url) as stream:
        check_uncompressed(url, stream.peek(8)[:8] if hasattr(stream, "peek") else b"")
        for chunk in _chunks(iterate_samples(url, stream, scan)):
            check = partial(_check_sample, source=source, is_embedded=scan.text is not None)
            for sample in pool.map(check, chunk):
                _count(report, url, sample, tokenizer)
            progress(scan.stop / max(size, 1), f"{report.num_samples} samples")
    index = index_from_scan(url, url, size, scan)
    report.num_bytes += size
    if report.num_samples == num_before:
        report.empty.append(url)
    if index.text is not None and index.text not in report.embedded:
        report.embedded.append(index.text)
    if keep_index and not storage.is_remote(url):
        write_index(index)


def _chunks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    stream = iter(items)
    while chunk := list(islice(stream, _CHUNK_SAMPLES)):
        yield chunk


def _check_sample(raw: RawSample, source: SourceRecipe, is_embedded: bool) -> _CheckedSample:
    suffixes = tuple(raw.members)
    try:
        check_members(raw)
        caption = find_caption(raw, source.caption)
        if is_embedded:
            read_context(raw)
        width, height = decode_image(find_image(raw)).size
        if min(width, height) < source.min_side:
            raise BadSampleError("image too small", f"{width} x {height}")
    except BadSampleError as error:
        return _CheckedSample(key=raw.key, suffixes=suffixes, defect=error)
    return _CheckedSample(
        key=raw.key, suffixes=suffixes, width=width, height=height, caption=caption
    )


def _count(
    report: DataReport, url: str, sample: _CheckedSample, tokenizer: Tokenizer | None
) -> None:
    report.num_samples += 1
    report.suffixes.update(sample.suffixes)
    digest = hash(sample.key)
    if digest in report._keys:
        report.duplicates += 1
        if len(report.duplicate_examples) < EXAMPLES:
            report.duplicate_examples.append(f"{url}: {sample.key}")
    report._keys.add(digest)
    if sample.defect is not None:
        reason = sample.defect.reason
        report.bad[reason] += 1
        examples = report.examples.setdefault(reason, [])
        if len(examples) < EXAMPLES:
            examples.append(str(BadSample(shard=url, key=sample.key, reason=str(sample.defect))))
        return
    report.short_sides.append(min(sample.width, sample.height))
    report.aspects.append(sample.width / sample.height)
    report.characters.append(len(sample.caption))
    if tokenizer is not None:
        # Plus the end token.
        count = len(tokenizer.rust.encode(sample.caption, add_special_tokens=False).ids) + 1
        report.tokens.append(count)
        report.truncated += count > tokenizer.prompt_length
