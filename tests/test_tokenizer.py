"""Token ids as T5 makes them, and the cut where a prompt is too long."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.errors import BundleError, UsageError
from minit2i_deploy.tokenizer import Tokenizer
from tests.helpers.tiny_tokenizer import LETTERS, VOCABULARY, write_tokenizer

A, RED, CIRCLE, SPACE, GR, EEN = range(3, 3 + len(VOCABULARY))
EOS = 1


def letter(name: str) -> int:
    return 3 + len(VOCABULARY) + LETTERS.index(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def test_prompts_become_ids_that_end_with_the_end_token(folder: Path) -> None:
    tokenizer = Tokenizer.open(folder, 8)
    texts = ["a red circle", "a green circle", "", "zed"]
    encoded = tokenizer.encode(texts)
    assert [e.ids.tolist() for e in encoded] == [
        [A, RED, CIRCLE, EOS],
        [A, GR, EEN, CIRCLE, EOS],
        [EOS],
        [SPACE, letter("z"), letter("e"), letter("d"), EOS],
    ]
    assert all(e.ids.dtype == np.int64 for e in encoded)
    assert [e.num_characters_used for e in encoded] == [len(text) for text in texts]
    assert [e.notice for e in encoded] == [None] * 4
    assert (tokenizer.eos_id, tokenizer.pad_id) == (1, 0)


@pytest.mark.parametrize(
    ("length", "ids", "used"),
    [
        (5, [A, GR, EEN, CIRCLE, EOS], 14),
        (4, [A, GR, EEN, EOS], 7),
        (3, [A, GR, EOS], 4),
        (2, [A, EOS], 1),
        (1, [EOS], 0),
    ],
)
def test_long_prompts_are_cut_and_say_where(
    folder: Path, length: int, ids: list[int], used: int
) -> None:
    text = "a green circle"
    (encoded,) = Tokenizer.open(folder, length).encode([text])
    assert encoded.ids.tolist() == ids and encoded.num_characters_used == used
    assert encoded.truncated == (used < len(text))
    if encoded.truncated:
        assert encoded.notice == f"prompt cut after {used} characters: '...{text[:used]}'"


def test_ten_thousand_characters(folder: Path) -> None:
    text = "a red circle " * 770
    (encoded,) = Tokenizer.open(folder, 256).encode([text])
    assert len(encoded.ids) == 256 and encoded.ids[-1] == EOS and encoded.truncated
    # 255 tokens are 85 repeats of three words; the space after the last is not used.
    assert encoded.num_characters_used == 85 * 13 - 1
    assert encoded.notice == "prompt cut after 1104 characters: '... circle a red circle'"
    assert len(encoded.notice) < 80


def test_characters_outside_latin_count_as_characters(folder: Path) -> None:
    (encoded,) = Tokenizer.open(folder, 3).encode(["\u7d05\U0001f600 red"])
    assert encoded.ids.tolist() == [SPACE, 2, EOS]
    assert encoded.truncated and encoded.num_characters_used == 2


def test_the_answer_does_not_depend_on_the_list(folder: Path) -> None:
    tokenizer = Tokenizer.open(folder, 8)
    together = tokenizer.encode(["a", "a red circle"])
    assert together[0].ids.tolist() == tokenizer.encode(["a"])[0].ids.tolist() == [A, EOS]


@pytest.mark.parametrize(
    ("texts", "text"),
    [
        ("a red circle", "encode takes a list of texts, got one text"),
        (["a", "b\0c"], "prompt 1 has a NUL character at position 1"),
        (["a", 7], "prompt 1 must be a string, got int"),
        ([b"a"], "prompt 0 must be a string, got bytes"),
        (["ab\udcff"], "prompt 0 is not valid Unicode at position 2"),
    ],
)
def test_wrong_prompts_are_refused(texts: object, text: str, folder: Path) -> None:
    tokenizer = Tokenizer.open(folder, 8)
    with pytest.raises(UsageError, match=text):
        inspect.unwrap(tokenizer.encode)(texts)


def test_wrong_files_are_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    original = path.read_text(encoding="utf-8")
    path.write_text(original.replace("</s>", "<end>"), encoding="utf-8")
    with pytest.raises(BundleError, match="it has no token </s>"):
        Tokenizer.open(folder, 8)
    path.write_text(original[:100], encoding="utf-8")
    with pytest.raises(BundleError, match="not a tokenizer"):
        Tokenizer.open(folder, 8)
    path.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        Tokenizer.open(folder, 8)
    with pytest.raises(UsageError, match="prompt_length must be at least 1, got 0"):
        Tokenizer.open(folder, 0)


def test_a_panic_of_the_library_is_an_error_of_ours(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for what the library raises on some corrupt files; it is no Exception."""
    panic = type("PanicException", (BaseException,), {})

    class Panicking:
        @staticmethod
        def from_buffer(data: bytes) -> None:
            raise panic("invalid map")

    monkeypatch.setattr("tokenizers.Tokenizer", Panicking)
    with pytest.raises(BundleError, match=r"not a tokenizer \(invalid map\)"):
        Tokenizer.open(folder, 8)


def test_an_interrupt_stays_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        @staticmethod
        def from_buffer(data: bytes) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("tokenizers.Tokenizer", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Tokenizer.open(folder, 8)
