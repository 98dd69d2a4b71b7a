"""Rows by token ids: each distinct text once, batches of like length, a cache with a limit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import UsageError
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.text.embed import embed, embed_stream
from minit2i_deploy.text.encoder import SequenceCache, SequenceEncoder
from tests.helpers.bundles import CONFIG, write_bundle

TEXTS = ["a red circle", "", "green", "red", "green", "a green circle", "a", "green"]


class CountingRuntime(FakeRuntime):
    """Notes the shape of every batch."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.batches: list[tuple[int, ...]] = []

    def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        self.batches.append(input_ids.shape)
        return super().encode(input_ids, attention_mask)

    @property
    def num_texts(self) -> int:
        return sum(shape[0] for shape in self.batches)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("encoding") / "bundle"))


@pytest.fixture
def runtime(bundle: Bundle) -> CountingRuntime:
    return CountingRuntime(bundle)


def test_a_text_that_comes_again_is_encoded_once(bundle: Bundle, runtime: CountingRuntime) -> None:
    result = embed(bundle, runtime, TEXTS)
    assert runtime.num_texts == len(set(TEXTS)) == 6
    assert np.array_equal(result.values[2], result.values[4])
    assert np.array_equal(result.values[2], result.values[7])
    assert np.array_equal(result.values[7, :3], embed(bundle, runtime, "green").values[0, :3])


@pytest.mark.parametrize("window", [1, 3, 100])
def test_a_stream_is_embed_in_windows(
    bundle: Bundle, runtime: CountingRuntime, window: int
) -> None:
    expected = embed(bundle, CountingRuntime(bundle), TEXTS)
    position = 0
    for part in embed_stream(bundle, runtime, iter(TEXTS), window=window):
        count, longest = part.mask.shape
        assert count == min(window, len(TEXTS) - position)
        assert longest == expected.mask[position : position + count].sum(axis=1).max()
        assert np.array_equal(part.values, expected.values[position : position + count, :longest])
        position += count
    assert position == len(TEXTS)
    # The cache outlives the windows.
    assert runtime.num_texts == 6


def test_a_stream_takes_texts_one_window_at_a_time(
    bundle: Bundle, runtime: CountingRuntime
) -> None:
    read = []

    def endless() -> Iterator[str]:
        while True:
            read.append("red")
            yield read[-1]

    stream = embed_stream(bundle, runtime, endless(), window=3)
    assert not read
    assert next(stream).mask.shape[0] == len(read) == 3
    assert list(embed_stream(bundle, runtime, [])) == []


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("red", {}, "embed_stream takes several texts, got one"),
        (["red"], {"window": 0}, "window must be at least 1, got 0"),
        (["red"], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_streams_are_refused_before_the_first_window(
    bundle: Bundle,
    runtime: CountingRuntime,
    texts: list[str],
    options: dict[str, int],
    message: str,
) -> None:
    with pytest.raises(UsageError, match=message):
        embed_stream(bundle, runtime, texts, **options)


def test_the_cache_drops_the_least_recently_used() -> None:
    cache = SequenceCache(max_bytes=3 * 8)
    sequences = {
        name: np.full(2, index, np.float32) for index, name in enumerate((b"a", b"b", b"c"))
    }
    for name, sequence in sequences.items():
        cache.put(name, sequence)
    assert cache.get(b"a") is not None
    cache.put(b"d", sequences[b"a"])
    assert cache.get(b"b") is None
    assert all(cache.get(name) is not None for name in (b"a", b"c", b"d"))
    assert cache.num_bytes == 24
    cache.put(b"large", np.zeros(100, np.float32))
    assert cache.num_bytes == 0


def test_the_cache_has_copies_of_real_tokens_only(bundle: Bundle, runtime: CountingRuntime) -> None:
    encoder = SequenceEncoder(bundle, runtime)
    encoded = encoder.tokenizer.encode(TEXTS)
    sequences = dict(encoder.sequences(encoded))
    assert sorted(sequences) == list(range(len(TEXTS)))
    num_tokens = sum(
        len(ids) for ids in {item.ids.tobytes(): item.ids for item in encoded}.values()
    )
    assert encoder.cache.num_bytes == num_tokens * CONFIG.txt_input_size * 4
    uncached = SequenceEncoder(bundle, runtime, cache_bytes=0)
    runtime.batches.clear()
    for _ in range(2):
        list(uncached.sequences(encoded))
    assert runtime.num_texts == 12


def test_an_array_holds_zeros_at_padding(bundle: Bundle) -> None:
    class Noisy(FakeRuntime):
        def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
            return np.ones((*input_ids.shape, CONFIG.txt_input_size), np.float32)

    encoded = bundle.tokenizer().encode(TEXTS)
    values, mask = SequenceEncoder(bundle, Noisy(bundle), batch_size=2).padded(encoded, 12)
    assert mask.sum(axis=1).tolist() == [len(item.ids) for item in encoded]
    assert (values.dtype, mask.dtype) == (np.float32, np.int64)
    assert values.shape == (len(TEXTS), 12, CONFIG.txt_input_size)
    assert (np.diff(mask, axis=1) <= 0).all()
    assert np.array_equal(values, np.broadcast_to(mask[..., None], values.shape))


def test_encoders_of_one_runtime_share_a_cache_that_ends_with_it(bundle: Bundle) -> None:
    runtime = CountingRuntime(bundle)
    encoded = bundle.tokenizer().encode(TEXTS)
    first, second = SequenceEncoder(bundle, runtime), SequenceEncoder(bundle, runtime)
    assert first.cache is second.cache
    assert SequenceEncoder(bundle, runtime, cache_bytes=0).cache is not first.cache
    assert SequenceEncoder(bundle, CountingRuntime(bundle)).cache is not first.cache
    list(first.sequences(encoded))
    list(second.sequences(encoded))
    assert runtime.num_texts == 6
    cache_reference = weakref.ref(first.cache)
    del first, second, runtime
    gc.collect()
    assert cache_reference() is None


def test_the_cache_keeps_to_its_limit_over_many_texts(bundle: Bundle) -> None:
    runtime = CountingRuntime(bundle)
    encoder = SequenceEncoder(bundle, runtime, cache_bytes=4000)
    texts = [f"{a} {b}" for a in ("red", "green", "blue", "a", "") for b in ("red", "a", "circle")]
    for window in (texts, texts[::-1], texts):
        list(encoder.sequences(encoder.tokenizer.encode(window)))
        assert 0 < encoder.cache.num_bytes <= 4000
        assert encoder.cache.num_bytes == sum(r.nbytes for r in encoder.cache._sequences.values())


def test_the_tokenizer_is_opened_once(
    bundle: Bundle, runtime: CountingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = Bundle.tokenizer

    def counted(self: Bundle) -> object:
        opened.append(self.path)
        return real(self)

    monkeypatch.setattr(Bundle, "tokenizer", counted)
    list(embed_stream(bundle, runtime, TEXTS, window=2, batch_size=1))
    assert len(opened) == 1
