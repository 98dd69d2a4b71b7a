"""Lines of bytes to texts: what is read, what is named as unreadable, and where reading stands."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest

from minit2i_deploy.errors import UsageError
from minit2i_deploy.text.text_lines import MAX_LINE_BYTES, Line, TextSource, read_prompt_lines


def read(data: bytes, field: str | None = None) -> list[Line]:
    return list(TextSource(io.BytesIO(data), field))


def test_plain_lines() -> None:
    data = b"\xef\xbb\xbfa red circle\r\n\n  green \n\t\n\xc3\xa9"
    assert read(data) == [
        Line(number=1, text="a red circle"),
        Line(number=3, text="green"),
        Line(number=5, text="\u00e9"),
    ]
    assert read(b"") == []


def test_json_lines_keep_their_text_as_it_is() -> None:
    data = b'{"text": " a\\n", "other": 1}\n\n{"text": ""}\n'
    assert read(data, "text") == [Line(number=1, text=" a\n"), Line(number=3, text="")]
    assert read(data, "caption")[0].problem == "no field 'caption'"


@pytest.mark.parametrize(
    ("data", "field", "problem"),
    [
        (b"caf\xe9", None, "not UTF-8 at byte 4"),
        (b"a\0b", None, "a NUL character at position 1"),
        (b'{"text": "a"', "text", "not JSON (Expecting ',' delimiter)"),
        (b"a red circle", "text", "not JSON (Expecting value)"),
        (b"[1]", "text", "not a JSON object"),
        (b'{"text": 3}', "text", "field 'text' is not a string"),
        (b'{"text": null}', "text", "field 'text' is not a string"),
        (b'{"text": "\\u0000"}', "text", "a NUL character at position 0"),
        (b'{"text": "\\ud800"}', "text", "not valid Unicode at position 0"),
        (b"[" * 100_000, "text", "not JSON (nested too deeply)"),
        (b"a" * (MAX_LINE_BYTES + 1), None, f"longer than {MAX_LINE_BYTES} bytes"),
        (b"a" * (3 * MAX_LINE_BYTES + 5), None, f"longer than {MAX_LINE_BYTES} bytes"),
    ],
)
def test_a_line_without_a_text_is_named_and_the_rest_is_read(
    data: bytes, field: str | None, problem: str
) -> None:
    good = b"green" if field is None else json.dumps({"text": "green"}).encode()
    assert read(good + b"\n" + data + b"\n" + good, field) == [
        Line(number=1, text="green"),
        Line(number=2, problem=problem),
        Line(number=3, text="green"),
    ]


def test_the_longest_line_that_is_read() -> None:
    assert read(b"a" * MAX_LINE_BYTES)[0].problem is None


def test_reading_goes_on_from_where_another_stopped() -> None:
    data = b"a\n\nb\nc\nd"
    first = TextSource(io.BytesIO(data))
    lines = iter(first)
    assert [next(lines).text, next(lines).text] == ["a", "b"]
    assert (first.num_lines, first.num_bytes) == (3, 5)
    assert first.sha256 == hashlib.sha256(data[:5]).hexdigest()
    second = TextSource(io.BytesIO(data))
    assert second.skip(first.num_lines)
    assert second.sha256 == first.sha256
    assert [line.number for line in second] == [4, 5]
    assert not TextSource(io.BytesIO(data)).skip(6)


def test_prompts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfred\r\n\n blue \nred")
    assert read_prompt_lines(path) == ["red", "blue", "red"]
    path.write_bytes(b"red\nb\xe9\n")
    with pytest.raises(UsageError, match="line 2: not UTF-8 at byte 2; write one prompt a line"):
        read_prompt_lines(path)
    with pytest.raises(UsageError, match="none: cannot be read"):
        read_prompt_lines(tmp_path / "none")
