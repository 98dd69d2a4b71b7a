"""The JavaScript module's tokens, noise and texts against the Python side's."""

from __future__ import annotations

import json
import random
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from minit2i_deploy.bundle.bundle import Bundle
from minit2i_deploy.solvers.noise import standard_noise
from tests.helpers.bundles import write_bundle
from tests.helpers.cpp_bundles import demo_tokenizer, released_form, tokenizer_bundle
from tests.helpers.odd_prompts import odd_prompts
from tests.helpers.web_client import WEB, case, floats, run_cases, values

pytestmark = pytest.mark.web

# Measured 2.4e-7: the last bit of a logarithm or a cosine differs between libraries.
MAX_NOISE_ERROR = 1e-6


@pytest.mark.parametrize("engine", ["onnxruntime-web", "chromium"])
def test_tokens_are_those_of_python(tmp_path: Path, engine: str) -> None:
    bundles = {
        "demo": tokenizer_bundle(tmp_path / "demo", demo_tokenizer(), 20000),
        "released": tokenizer_bundle(tmp_path / "released", released_form(), 20000),
        "tiny": write_bundle(tmp_path / "tiny"),
    }
    prompts = odd_prompts()
    results = values(engine, [case("tokenize", path, prompts) for path in bundles.values()])
    for (name, path), actual in zip(bundles.items(), results, strict=True):
        for prompt, encoded, expected in zip(
            prompts, actual, Bundle.open(path).tokenizer().encode(prompts), strict=True
        ):
            assert encoded["ids"] == expected.ids.tolist(), (name, ascii(prompt))
            assert encoded["truncated"] == expected.truncated, (name, ascii(prompt))


@pytest.mark.parametrize("length", [1, 2, 12])
def test_a_long_prompt_is_cut_before_the_end_token(tmp_path: Path, length: int) -> None:
    path = tokenizer_bundle(tmp_path / "bundle", demo_tokenizer(), length)
    prompts = ["", "a", "a red circle", "a red circle " * 20]
    (actual,) = values("onnxruntime-web", [case("tokenize", path, prompts)])
    expected = Bundle.open(path).tokenizer().encode(prompts)
    assert [item["ids"] for item in actual] == [item.ids.tolist() for item in expected]
    assert [item["truncated"] for item in actual] == [item.truncated for item in expected]


def test_invalid_text_is_refused_with_pythons_line(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    results = run_cases(
        "onnxruntime-web",
        [case("tokenize", bundle, [text]) for text in ("a\0b", "\u00e9\ud83d", 3)],
    )
    assert [result["error"] for result in results] == [
        {
            "name": "UsageError",
            "message": "prompt 0 has a NUL character at position 1; remove it",
        },
        {
            "name": "UsageError",
            "message": "prompt 0 is not valid Unicode at position 1; pass text without half a "
            "surrogate pair",
        },
        {"name": "UsageError", "message": "prompt 0 must be a string, got number"},
    ]


@pytest.mark.parametrize("engine", ["onnxruntime-web", "chromium"])
def test_noise(engine: str) -> None:
    arguments = [
        (seed, stream, count)
        for seed in (0, 7, 2**32 + 5, 2**64 - 1)
        for stream in (0, 3, 2**32 - 1)
        for count in (1, 2, 3, 3 * 64 * 64 + 1)
    ]
    cases = [case("noise", str(seed), stream, count) for seed, stream, count in arguments]
    for (seed, stream, count), actual in zip(arguments, values(engine, cases), strict=True):
        expected = standard_noise(seed, [count], stream=stream)
        assert np.abs(floats(actual) - expected).max() <= MAX_NOISE_ERROR


def test_characters_that_join_are_those_of_the_cpp_client(repository: Path) -> None:
    lists = [
        (repository / path).read_text(encoding="utf-8").split("JOINERS", 1)[-1]
        if path.endswith(".js")
        else (repository / path).read_text(encoding="utf-8").split("kJoiners", 1)[-1]
        for path in ("runtimes/web/src/common/joiners.js", "runtimes/cpp/src/common/joiners.hpp")
    ]
    script, header = (re.findall(r"0x[0-9a-f]+", text) for text in lists)
    assert script == header and len(script) == 656


def test_version_is_that_of_the_package() -> None:
    from minit2i_deploy._version import __version__

    text = (WEB / "src" / "common" / "version.js").read_text(encoding="utf-8")
    assert f'VERSION = "{__version__}"' in text
    assert json.loads((WEB / "package.json").read_text("utf-8"))["version"] == __version__


def test_numbers_and_texts_as_python_writes_them() -> None:
    source = random.Random(3)
    numbers = [struct.unpack("<d", source.randbytes(8))[0] for _ in range(400)]
    numbers = [number for number in numbers if np.isfinite(number)]
    numbers += [source.uniform(-30, 30) * 10.0 ** source.randint(-8, 20) for _ in range(200)]
    numbers += [0.0, 0.1, 2.5, 1e16, 1e-4, 9.999e-5, 123456.0, 1e22, 5e-324]
    texts = ["", "it's", '"it\'s"', "a\n\t\\", "\u00e9\u00ad\u0085\u4f60\U0001f600", "\x7f'"]
    module = "common/python_json.js"
    cases = [
        *(case("call", module, "pythonFloat", [number]) for number in numbers),
        *(case("call", module, "pythonShort", [number]) for number in numbers),
        *(case("call", module, "pythonRepr", [text]) for text in texts),
        *(case("call", module, "pythonJson", [text]) for text in texts),
    ]
    expected = [repr(number) for number in numbers] + [f"{number:g}" for number in numbers]
    expected += [repr(text) for text in texts] + [json.dumps(text) for text in texts]
    assert values("onnxruntime-web", cases) == expected


def test_strict_json_refuses_what_python_refuses() -> None:
    bad = ['{"a": 1, "a": 2}', "[1,]", "{,}", "[01]", "NaN", "1e999", '"\t"', '"\\x"', "[1] 2", ""]
    bad += ["[" * 300 + "]" * 300, "{'a': 1}", '{"a" 1}', "tru", "-", "1."]
    cases = [case("fails", "common/json.js", "parseJson", [text]) for text in bad]
    lines = values("onnxruntime-web", cases)
    assert all(lines), [text for text, line in zip(bad, lines, strict=True) if not line]


def test_sha256_without_the_browsers_help() -> None:
    import hashlib

    sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000]
    cases = [case("hash", size) for size in sizes]
    expected = [hashlib.sha256(bytes(i % 251 for i in range(size))).hexdigest() for size in sizes]
    assert values("onnxruntime-web", cases) == expected
