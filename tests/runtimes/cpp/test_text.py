"""The C++ client's tokens and embeddings against the Python side's, which reads the same files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.runtimes import open_runtime
from minit2i_deploy.text.embed import embed
from minit2i_deploy.tokenizer import Tokenizer
from tests.helpers.cpp_bundles import (
    demo_tokenizer,
    released_form,
    shipped_bundle,
    tokenizer_bundle,
)
from tests.helpers.cpp_client import OK, USAGE, Client, last_error, program, run_in_threads
from tests.helpers.odd_prompts import odd_prompts
from tests.helpers.tiny_bundle import tiny_bundle

pytestmark = pytest.mark.cpp

# Measured 0 for values and 3e-8 for pooled: the same library runs the same graph.
MAX_EMBEDDING_ERROR = 1e-5


@pytest.fixture(scope="module", params=["demo", "released", "tiny"])
def tokenizers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Tokenizer]]:
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    if request.param == "tiny":
        path = tiny_bundle()
    else:
        values = demo_tokenizer() if request.param == "demo" else released_form()
        path = tokenizer_bundle(folder, values, 20000)
    with Client(path) as client:
        yield client, Bundle.open(path).tokenizer()


def test_tokens_are_those_of_python(tokenizers: tuple[Client, Tokenizer]) -> None:
    client, tokenizer = tokenizers
    prompts = odd_prompts()
    for prompt, expected in zip(prompts, tokenizer.encode(prompts), strict=True):
        status, ids, was_cut = client.tokenize(prompt.encode())
        assert (status, ids, was_cut) == (OK, expected.ids.tolist(), expected.truncated), ascii(
            prompt
        )


@pytest.mark.parametrize("length", [1, 2, 12])
def test_a_long_prompt_is_cut_before_the_end_token(tmp_path: Path, length: int) -> None:
    path = tokenizer_bundle(tmp_path / "bundle", demo_tokenizer(), length)
    tokenizer = Bundle.open(path).tokenizer()
    prompts = ["", "a", "a red circle", "a red circle " * 20]
    with Client(path) as client:
        for prompt, expected in zip(prompts, tokenizer.encode(prompts), strict=True):
            assert client.tokenize(prompt.encode()) == (
                OK,
                expected.ids.tolist(),
                expected.truncated,
            )


@pytest.mark.parametrize(
    "pre_tokenizer",
    [{"type": "WhitespaceSplit"}, {"type": "Sequence", "pretokenizers": []}],
    ids=["splits words alone", "nothing"],
)
def test_a_tokenizer_without_metaspace_is_refused(
    tmp_path: Path, pre_tokenizer: dict[str, object]
) -> None:
    values = demo_tokenizer() | {"pre_tokenizer": pre_tokenizer}
    path = tokenizer_bundle(tmp_path / "bundle", values, 20)
    line = program("minit2i-embed", path, "a red circle", "--tokens", code=1)
    reason = "pre_tokenizer has no Metaspace, so it is not T5's"
    assert line == (
        f"minit2i-embed: error: {path / 'tokenizer' / 'tokenizer.json'}: not a tokenizer "
        f"({reason}); re-run minit2i export\n"
    )


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"a\0b", "prompt 0 holds a NUL character at position 1; take it out"),
        (b"\xc3\xa9\xff", "prompt 0 is not valid Unicode at position 1; pass UTF-8 text"),
        (b"a\xed\xa0\x80", "prompt 0 is not valid Unicode at position 1; pass UTF-8 text"),
        (b"\xc0\xaf", "prompt 0 is not valid Unicode at position 0; pass UTF-8 text"),
        (b"ab\xf4\x90\x80\x80", "prompt 0 is not valid Unicode at position 2; pass UTF-8 text"),
        (b"\xe2\x82", "prompt 0 is not valid Unicode at position 0; pass UTF-8 text"),
    ],
)
def test_invalid_text_is_refused_with_pythons_line(data: bytes, line: str) -> None:
    with Client(tiny_bundle()) as client:
        assert client.tokenize(data)[0] == USAGE
        assert last_error() == line
    if b"\0" not in data:
        error = program("minit2i-embed", tiny_bundle(), data, "--tokens", code=2)
        assert error == f"minit2i-embed: error: {line}\n"


def test_a_small_buffer_names_the_size() -> None:
    with Client(tiny_bundle()) as client:
        assert client.tokenize(b"a red circle", capacity=2)[0] == USAGE
        assert last_error() == "capacity is 2, but there are 4 ids; pass a larger array"
        assert client.tokenize(b"a red circle", capacity=4)[0] == OK


@pytest.mark.parametrize("scheme", [None, "int8"])
def test_embeddings_are_those_of_python(tmp_path: Path, scheme: str | None) -> None:
    # Every scheme quantizes the text encoder the same way.
    path = shipped_bundle(scheme)
    texts = ["a red circle", "", "green", "a " * 40, "a gr\u00fcn circle"] * 9
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    options = ("--texts", file, "--pooled", "--threads", 2, "-o", tmp_path / "a.npz")
    program("minit2i-embed", path, *options)
    actual = np.load(tmp_path / "a.npz")
    bundle = Bundle.open(path)
    with open_runtime(bundle, "onnxruntime") as runtime, pytest.warns(UserWarning):
        expected = embed(bundle, runtime, texts)
    assert actual["values"].shape == expected.values.shape
    assert np.array_equal(actual["mask"], expected.mask)
    assert np.abs(actual["values"] - expected.values).max() <= MAX_EMBEDDING_ERROR
    assert np.abs(actual["pooled"] - expected.pooled()).max() <= MAX_EMBEDDING_ERROR


def test_pooled_alone_as_an_archive_and_as_one_array(tmp_path: Path) -> None:
    program("minit2i-embed", tiny_bundle(), "red", "green", "--pooled", "-o", tmp_path / "all.npz")
    expected = np.load(tmp_path / "all.npz")["pooled"]
    for name in ("a.npz", "a.npy"):
        file = tmp_path / name
        line = program("minit2i-embed", tiny_bundle(), "red", "green", "--pooled-only", "-o", file)
        assert line == f"{file}  pooled [2, 32]\n"
    with np.load(tmp_path / "a.npz") as archive:
        assert archive.files == ["pooled"]
        assert np.array_equal(archive["pooled"], expected)
    assert np.array_equal(np.load(tmp_path / "a.npy"), expected)
    line = program("minit2i-embed", tiny_bundle(), "red", "-o", tmp_path / "b.npy", code=2)
    assert "b.npy: a .npy file has one array; pass --pooled-only, or name a .npz file" in line


def test_texts_from_standard_input(tmp_path: Path) -> None:
    expected = program("minit2i-embed", tiny_bundle(), "a red circle", "", "green", "--tokens")
    data = b"a red circle\n\ngreen\n"
    assert program("minit2i-embed", tiny_bundle(), "-", "--tokens", stdin=data) == expected
    options = ("--texts", "-", "--tokens")
    assert program("minit2i-embed", tiny_bundle(), *options, stdin=data) == expected
    line = program("minit2i-embed", tiny_bundle(), "-", "--tokens", code=2, stdin=b"")
    assert "no text given" in line


def test_a_cut_prompt_says_where() -> None:
    with Client(tiny_bundle()) as client:
        client.embed(b"a green circle " * 30)
    (line,) = client.warnings
    cut = re.fullmatch(r"prompt 0 was cut to 12 tokens: '\.\.\.(.+)'", line)
    assert cut is not None and cut[1] in "a green circle " * 30
    assert len(cut[1]) == 20


def test_memory_does_not_grow() -> None:
    assert "KiB more in the last half" in program("soak", tiny_bundle(), 1000)


def test_two_models_in_two_threads_and_a_thousand_embeddings() -> None:
    ids = [
        int(i) for i in program("minit2i-embed", tiny_bundle(), "a red circle", "--tokens").split()
    ]
    failures: list[str] = []

    def work() -> None:
        with Client(tiny_bundle()) as client:
            for _ in range(500):
                client.embed(b"a red circle")
            if client.tokenize(b"a red circle")[1] != ids:
                failures.append("other tokens")

    run_in_threads(work, work)
    assert failures == []
