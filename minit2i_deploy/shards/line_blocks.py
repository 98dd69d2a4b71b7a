"""Where the blocks of lines of a large file begin, and the hash of all of it, in one pass."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from minit2i_deploy.errors import UsageError
from minit2i_deploy.text.text_lines import Line, TextSource

_CHUNK_BYTES: Final = 4 * 2**20
_LINE_END: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class LineBlocks:
    """The lines of a file in blocks.

    Args:
        path: the file.
        sha256: hash of all its bytes.
        num_lines: blank ones counted, also a last one without an end.
        block_lines: lines of every block but the last.
        offsets: first byte of each block.
    """

    path: Path
    sha256: str
    num_lines: int
    block_lines: int
    offsets: tuple[int, ...]

    @classmethod
    def scan(cls, path: Path, block_lines: int) -> LineBlocks:
        """Read the file once, with memory for the offsets only.

        Raises:
            UsageError: the file cannot be read, has no line, or a block has none.
        """
        if block_lines < 1:
            raise UsageError(f"expected at least 1 line per block, got {block_lines}")
        digest, num_lines, position, last = hashlib.sha256(), 0, 0, _LINE_END
        offsets = [0]
        try:
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == _LINE_END)
                    # The line after every block_lines-th end begins a block.
                    first = -(num_lines + 1) % block_lines
                    offsets += (position + ends[first::block_lines] + 1).tolist()
                    num_lines += len(ends)
                    position, last = position + len(chunk), chunk[-1]
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        num_lines += last != _LINE_END
        if not num_lines:
            raise UsageError(f"{path}: is empty; write one text per line")
        num_blocks = -(-num_lines // block_lines)
        return cls(
            path=path,
            sha256=digest.hexdigest(),
            num_lines=num_lines,
            block_lines=block_lines,
            offsets=tuple(offsets[:num_blocks]),
        )

    def read(self, block: int, field: str | None) -> list[Line]:
        """The lines of a block that are not blank.

        Args:
            block: which.
            field: name of the text in each line's JSON object; None for plain lines.

        Raises:
            UsageError: the file cannot be read any more.
        """
        start = block * self.block_lines
        stop = min(start + self.block_lines, self.num_lines)
        lines = []
        try:
            with self.path.open("rb") as stream:
                stream.seek(self.offsets[block])
                source = TextSource(stream, field, first=start)
                for line in source:
                    if line.number > stop:
                        break
                    lines.append(line)
                    if line.number == stop:
                        break
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read ({error.strerror})") from error
        return lines
