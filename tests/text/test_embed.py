"""Embeddings: order, batches, padding, pooling and refused calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import PromptTruncatedWarning, UsageError
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.text.embed import Embeddings, embed
from tests.helpers.bundles import CONFIG, write_bundle

TEXTS = ["a red circle", "", "green", "red", "a green circle", "a"]


class CountingRuntime(FakeRuntime):
    """Notes the shape of every batch."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.batches: list[tuple[int, ...]] = []

    def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        self.batches.append(input_ids.shape)
        return super().encode(input_ids, attention_mask)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("embed") / "bundle"))


@pytest.fixture
def runtime(bundle: Bundle) -> CountingRuntime:
    return CountingRuntime(bundle)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_rows_come_in_the_order_of_the_texts(
    bundle: Bundle, runtime: CountingRuntime, batch_size: int
) -> None:
    result = embed(bundle, runtime, TEXTS, batch_size=batch_size)
    ids = [item.ids for item in bundle.tokenizer().encode(TEXTS)]
    assert result.mask.sum(axis=1).tolist() == [len(row) for row in ids]
    assert result.values.shape == (len(TEXTS), max(map(len, ids)), CONFIG.txt_input_size)
    channel = np.arange(1, CONFIG.txt_input_size + 1) / CONFIG.txt_input_size
    for values, row in zip(result.values, ids, strict=True):
        # Measured 0: the fake runtime rounds the same float64 values.
        assert np.abs(values[: len(row)] - np.sin(np.outer(row, channel))).max() < 1e-6
        assert not values[len(row) :].any()


def test_batches_hold_texts_of_like_length(bundle: Bundle, runtime: CountingRuntime) -> None:
    embed(bundle, runtime, TEXTS, batch_size=2)
    lengths = sorted(len(item.ids) for item in bundle.tokenizer().encode(TEXTS))
    assert runtime.batches == [(2, lengths[1]), (2, lengths[3]), (2, lengths[5])]
    other = CountingRuntime(bundle)
    embed(bundle, other, TEXTS)
    assert other.batches == [(6, lengths[5])]


def test_one_text_needs_no_list(bundle: Bundle, runtime: CountingRuntime) -> None:
    alone, listed = embed(bundle, runtime, "green"), embed(bundle, runtime, ["green"])
    assert np.array_equal(alone.values, listed.values)
    assert alone.values.dtype == np.float32
    assert alone.mask.dtype == np.int64


def test_pooled_is_the_scaled_mean_of_the_real_tokens() -> None:
    values = np.zeros((2, 3, 2), np.float32)
    values[0] = [[3, 0], [0, 4], [3, 4]]
    values[1, 0] = [0, 5]
    result = Embeddings(values=values, mask=np.array([[1, 1, 1], [1, 0, 0]]))
    assert result.pooled().dtype == np.float32
    # Means (2, 8/3) and (0, 5); a plain mean over the padding would give the same direction,
    # so the first row decides between mean and sum only together with its length.
    assert np.allclose(result.pooled(), [[0.6, 0.8], [0, 1]], atol=1e-7)


def test_pooling_sums_in_float64() -> None:
    # Summed in float32 the ones are lost beside 2**25, and the first channel is 0.
    row = np.array([[2.0**25, 0, 0], *[[1, 1, 0]] * 30, [-(2.0**25), 0, 40]], np.float32)
    values = np.concatenate([row, np.zeros((3, 3), np.float32)])[None]
    result = Embeddings(values=values, mask=np.array([[1] * len(row) + [0] * 3])).pooled()
    assert result.dtype == np.float32
    # One rounding to float32 of values below 1.
    assert np.abs(result - np.array([30, 30, 40]) / np.sqrt(3400)).max() <= 2**-24


def test_a_long_text_is_cut_with_a_warning(bundle: Bundle, runtime: CountingRuntime) -> None:
    with pytest.warns(PromptTruncatedWarning, match="cut after"):
        result = embed(bundle, runtime, ["red " * 100, "red"])
    assert result.mask.sum(axis=1).tolist()[0] == CONFIG.prompt_length


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "at least one text .*, got none"),
        (["red"], {"batch_size": 0}, "at least 1, got 0"),
        (["red"], {"batch_size": -3}, "at least 1, got -3"),
        (["red", "a\0"], {}, "prompt 1 has a NUL"),
    ],
)
def test_wrong_calls_are_refused(
    bundle: Bundle, runtime: CountingRuntime, texts: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        embed(bundle, runtime, texts, **options)
    assert not runtime.batches


def test_the_short_form_has_shape_and_lengths() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 0]], np.int64)
    few = Embeddings(values=np.zeros((2, 3, 8), np.float32), mask=mask)
    assert repr(few) == "<Embeddings float32 [2, 3, 8], 3, 1 tokens>"
    many = Embeddings(values=np.zeros((6, 3, 8), np.float32), mask=np.tile(mask, (3, 1)))
    assert repr(many) == "<Embeddings float32 [6, 3, 8], 3, 1, 3, 1, .. tokens>"
