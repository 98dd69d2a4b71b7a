"""Prompts to branch tokens: order of the branches, padding, warnings and timings."""

from __future__ import annotations

import time

import numpy as np
import pytest
from bundles import CONFIG, write_bundle

from minit2i_deploy.bundle import Bundle
from minit2i_deploy.condition import (
    PromptTruncatedWarning,
    Stopwatch,
    branch_tokens,
    branch_weights,
    encode_batch,
    padded_context,
    tokenise,
)
from minit2i_deploy.prompts import Mix, Prompt
from minit2i_deploy.runtimes.fake import FakeRuntime

TOKENS = (CONFIG.num_text_tokens, CONFIG.hidden_size)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_bundle(tmp_path_factory.mktemp("condition") / "bundle"))


@pytest.fixture(scope="module")
def runtime(bundle: Bundle) -> FakeRuntime:
    return FakeRuntime(bundle)


def tokens(
    bundle: Bundle, runtime: FakeRuntime, prompts: list[Prompt], negative: str | None, guided: bool
) -> np.ndarray:
    return branch_tokens(bundle, runtime, prompts, negative, guided, {})


def test_the_first_branch_is_the_prompts(bundle: Bundle, runtime: FakeRuntime) -> None:
    both = tokens(bundle, runtime, ["red", "green"], None, True)
    assert both.shape == (2, 2, *TOKENS)
    assert np.array_equal(both[0], tokens(bundle, runtime, ["red", "green"], None, False)[0])
    assert not np.array_equal(both[0, 0], both[0, 1])


def test_the_second_branch_is_unconditional_or_negative(
    bundle: Bundle, runtime: FakeRuntime
) -> None:
    unconditional = tokens(bundle, runtime, ["red", "green"], None, True)[1]
    # The fake adapter gives zeros where the whole mask is zero.
    assert unconditional.shape == (2, *TOKENS)
    assert not unconditional.any()
    negative = tokens(bundle, runtime, ["red", "green"], "a circle", True)[1]
    alone = tokens(bundle, runtime, ["a circle"], None, False)[0, 0]
    assert np.array_equal(negative, np.stack([alone, alone]))


def test_one_branch_keeps_its_axis(bundle: Bundle, runtime: FakeRuntime) -> None:
    assert tokens(bundle, runtime, ["red"], None, False).shape == (1, 1, *TOKENS)


@pytest.mark.parametrize("negative", [None, "blue"])
def test_parts_come_first_and_the_other_branch_last(
    bundle: Bundle, runtime: FakeRuntime, negative: str | None
) -> None:
    mixes: list[Prompt] = [
        Mix(parts=(("red", 1.0), ("a circle", 3.0))),
        Mix(parts=(("green", 2.0), ("a red circle", 6.0))),
    ]
    found = tokens(bundle, runtime, mixes, negative, True)
    first = tokens(bundle, runtime, ["red", "green"], negative, True)
    second = tokens(bundle, runtime, ["a circle", "a red circle"], negative, True)
    assert np.array_equal(found, np.stack([first[0], second[0], first[1]]))
    assert np.array_equal(tokens(bundle, runtime, mixes, None, False), found[:2])


@pytest.mark.parametrize("scale", [0.0, 2.5, 7.3])
def test_parts_share_the_scale(scale: float) -> None:
    guidance = np.array([scale, 1 - scale], np.float32)
    found = branch_weights(np.array([0.25, 0.75]), guidance)
    assert found.dtype == np.float32
    assert found == pytest.approx([scale / 4, 3 * scale / 4, 1 - scale], abs=1e-6)
    assert branch_weights(np.array([0.25, 0.75]), guidance[:1] * 0 + 1).tolist() == [0.25, 0.75]
    # One part changes no bit.
    assert np.array_equal(branch_weights(np.array([1.0]), guidance), guidance)


def test_every_stage_is_timed(bundle: Bundle, runtime: FakeRuntime) -> None:
    timings = {"encode": 5.0}
    branch_tokens(bundle, runtime, ["red"], None, True, timings)
    assert set(timings) == {"tokenise", "encode", "adapt"}
    assert 5.0 < timings["encode"] < 6.0


def test_stopwatch_adds_up_and_counts_failures() -> None:
    timings: dict[str, float] = {}
    for _ in range(2):
        with pytest.raises(KeyError), Stopwatch(timings, "work"):
            time.sleep(0.01)
            raise KeyError
    assert 0.02 <= timings["work"] < 1.0


def test_values_at_padding_are_zero(bundle: Bundle) -> None:
    class Noisy(FakeRuntime):
        def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
            return np.ones((*input_ids.shape, CONFIG.txt_input_size), np.float32)

    encoded = bundle.tokenizer().encode(["a red circle", ""])
    values, mask = encode_batch(bundle, Noisy(bundle), encoded)
    assert mask.sum(axis=1).tolist() == [len(item.ids) for item in encoded]
    assert mask.shape[1] == len(encoded[0].ids)
    assert np.array_equal(values, np.broadcast_to(mask[..., None], values.shape))
    assert values.dtype == np.float32


def test_context_is_padded_to_the_prompt_length(bundle: Bundle) -> None:
    values = np.ones((2, 4, CONFIG.txt_input_size), np.float32)
    context, mask = padded_context(bundle, values, np.ones((2, 4), np.int64))
    assert context.shape == (2, CONFIG.prompt_length, CONFIG.txt_input_size)
    assert (context.dtype, mask.dtype) == (np.float32, np.int64)
    assert np.array_equal(context[:, :4], values)
    assert not context[:, 4:].any()
    assert mask.tolist() == [[1] * 4 + [0] * (CONFIG.prompt_length - 4)] * 2


def test_each_cut_text_is_warned_of(bundle: Bundle) -> None:
    with pytest.warns(PromptTruncatedWarning) as caught:
        encoded = tokenise(bundle, ["red " * 50, "red", "green " * 50])
    assert [item.truncated for item in encoded] == [True, False, True]
    assert ["red'" in str(w.message) for w in caught] == [True, False]
    assert len(caught) == 2
