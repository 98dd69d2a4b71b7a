"""Read texts from lines of bytes, plain or JSON; invalid lines are reported, not fatal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from minit2i_deploy.errors import UsageError

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
# Far longer than any prompt; keeps one endless line from filling the memory.
MAX_LINE_BYTES: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line that is not blank.

    Args:
        number: from 1, blank lines counted.
        text: its text, or None.
        problem: why it has no text, or None.
    """

    number: int
    text: str | None = None
    problem: str | None = None


class TextSource:
    """The texts of a stream, and its position.

    Args:
        stream: open for reading bytes.
        field: name of the text in each line's JSON object; None for plain lines.
        first: lines before the stream's position.
    """

    def __init__(self, stream: BinaryIO, field: str | None = None, *, first: int = 0) -> None:
        self.field = field
        self.num_lines = first
        self.num_bytes = 0
        self._stream = stream
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hash of all bytes read so far."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[Line]:
        """The lines that are not blank, from the current position on."""
        while (data := self._next_line()) is not None:
            if data.strip():
                yield self._parse(data)

    def skip(self, num_lines: int) -> bool:
        """Skip lines; False where the stream ends before."""
        return all(self._next_line() is not None for _ in range(num_lines))

    def _next_line(self) -> bytes | None:
        """The next line; of a longer one than MAX_LINE_BYTES the first MAX_LINE_BYTES + 1."""
        data = line = self._read_piece()
        while len(data) > MAX_LINE_BYTES and not data.endswith(b"\n"):
            data = self._read_piece()
        if not line:
            return None
        # Windows editors begin UTF-8 files with it.
        if self.num_lines == 0:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        self.num_lines += 1
        return line

    def _read_piece(self) -> bytes:
        data = self._stream.readline(MAX_LINE_BYTES + 1)
        self._hash.update(data)
        self.num_bytes += len(data)
        return data

    def _parse(self, data: bytes) -> Line:
        number = self.num_lines
        try:
            return Line(number=number, text=_text(data, self.field))
        except ValueError as error:
            return Line(number=number, problem=str(error))


def read_prompt_lines(path: Path) -> list[str]:
    """The prompts of a UTF-8 text file, one a line; blank lines are skipped.

    Raises:
        UsageError: the file cannot be read, or a line of it is not a text.
    """
    try:
        with path.open("rb") as stream:
            lines = list(TextSource(stream))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    prompts = []
    for line in lines:
        if line.text is None:
            raise UsageError(f"{path}: line {line.number}: {line.problem}; write one prompt a line")
        prompts.append(line.text)
    return prompts


def _text(data: bytes, field: str | None) -> str:
    """The text of one line.

    Raises:
        ValueError: there is none; the message says why.
    """
    if len(data) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        line = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}") from error
    text = line.strip() if field is None else _member(line, field)
    if "\0" in text:
        raise ValueError(f"a NUL character at position {text.index(chr(0))}")
    try:
        # JSON may have half of a surrogate pair, which no encoding can write.
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"not valid Unicode at position {error.start}") from error
    return text


def _member(line: str, field: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        raise ValueError(f"not JSON ({reason})") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if field not in value:
        raise ValueError(f"no field {field!r}")
    text = value[field]
    if not isinstance(text, str):
        raise ValueError(f"field {field!r} is not a string")
    return text
