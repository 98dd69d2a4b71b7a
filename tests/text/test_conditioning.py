"""Prompts to branch tokens: order of the branches, padding, warnings and timings."""

from __future__ import annotations

import time

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.errors import PromptTruncatedWarning
from minit2i_deploy.runtimes.fake import FakeRuntime
from minit2i_deploy.text.conditioning import Stopwatch, branch_tokens, branch_weights, tokenize
from minit2i_deploy.text.embed import embed
from minit2i_deploy.text.prompts import Mix, Prompt
from tests.helpers.bundles import CONFIG, write_bundle

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
    # The fake adapter returns zeros where all of the mask is zero.
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
    actual = tokens(bundle, runtime, mixes, negative, True)
    first = tokens(bundle, runtime, ["red", "green"], negative, True)
    second = tokens(bundle, runtime, ["a circle", "a red circle"], negative, True)
    assert np.array_equal(actual, np.stack([first[0], second[0], first[1]]))
    assert np.array_equal(tokens(bundle, runtime, mixes, None, False), actual[:2])


@pytest.mark.parametrize("scale", [0.0, 2.5, 7.3])
def test_parts_share_the_scale(scale: float) -> None:
    guidance = np.array([scale, 1 - scale], np.float32)
    actual = branch_weights(np.array([0.25, 0.75]), guidance)
    assert actual.dtype == np.float32
    assert actual == pytest.approx([scale / 4, 3 * scale / 4, 1 - scale], abs=1e-6)
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


def test_equal_prompts_are_encoded_once_for_all_images(bundle: Bundle) -> None:
    class Counting(FakeRuntime):
        num_texts = 0

        def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
            self.num_texts += len(input_ids)
            return super().encode(input_ids, attention_mask)

    runtime = Counting(bundle)
    prompts: list[Prompt] = ["red", "a circle", "red", "red"]
    first = tokens(bundle, runtime, prompts, "a circle", True)
    assert runtime.num_texts == 2
    assert np.array_equal(tokens(bundle, runtime, prompts, "a circle", True), first)
    assert np.array_equal(tokens(bundle, runtime, ["red"], None, False)[0, 0], first[0, 3])
    assert np.array_equal(
        embed(bundle, runtime, "red").values, embed(bundle, runtime, "red").values
    )
    assert runtime.num_texts == 2
    # Another runtime may be of another bundle.
    other = Counting(bundle)
    assert np.array_equal(tokens(bundle, other, prompts, "a circle", True), first)
    assert other.num_texts == 2


def test_each_cut_text_is_warned_of(bundle: Bundle) -> None:
    with pytest.warns(PromptTruncatedWarning) as caught:
        encoded = tokenize(bundle, ["red " * 50, "red", "green " * 50])
    assert [item.truncated for item in encoded] == [True, False, True]
    assert ["red'" in str(w.message) for w in caught] == [True, False]
    assert len(caught) == 2
