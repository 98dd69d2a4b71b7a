"""Prompts from standard input, which ``-`` names wherever a command takes texts."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import UsageError
from minit2i_deploy.text.text_lines import TextSource

STDIN: Final = "-"
# Recorded with a calibration: one name for every run, so that an interrupted one is resumed.
_FILE_NAME: Final = "stdin.txt"


def read_standard_input() -> list[str]:
    """The prompts of standard input, one per line; blank lines are skipped.

    Raises:
        UsageError: a line is no text.
    """
    prompts = []
    for line in TextSource(sys.stdin.buffer):
        if line.text is None:
            raise UsageError(f"standard input: line {line.number}: {line.problem}")
        prompts.append(line.text)
    return prompts


@contextlib.contextmanager
def prompts_file(path: Path | None) -> Iterator[Path | None]:
    """A file of prompts as it is; standard input as a temporary file, for what reads files only.

    Raises:
        UsageError: a line of standard input is no text.
    """
    if path is None or str(path) != STDIN:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="minit2i-") as folder:
        copy = Path(folder, _FILE_NAME)
        copy.write_text("".join(f"{text}\n" for text in read_standard_input()), encoding="utf-8")
        yield copy
