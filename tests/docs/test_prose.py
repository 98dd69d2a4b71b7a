"""The prose of the docs: width of its lines, length of its sentences, and the words it uses."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

WIDTH = 100
MEDIAN_LENGTH = (8, 18)
# Words of our own where the field has another: docs/glossary.md has the field's.
AVOIDED = re.compile(
    r"\b(pictures?|paint(?:s|ed|ing)?|cards?|quantis\w+|tokenis\w+|initialis\w+|"
    r"unasked|reweigh\w*|ladder|sealed?|late rows?|left out)\b",
    re.IGNORECASE,
)
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def pages(repository: Path) -> list[Path]:
    names = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
    paths = [repository / name for name in names]
    paths += sorted((repository / "docs").rglob("*.md"))
    # Its texts are the parsers'.
    return [path for path in paths if path.name != "cli.md" and path.exists()]


def prose(path: Path) -> list[str]:
    """Lines outside of code, tables and images."""
    text = CODE.sub("", path.read_text("utf-8"))
    others = ("|", "    ", ":::", "![", "<")
    return [line for line in text.splitlines() if not line.startswith(others)]


def sentences(path: Path) -> list[int]:
    """Number of words of each sentence."""
    text = "\n".join(line for line in prose(path) if not line.startswith("#"))
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    parts = re.split(r"(?<=[.!?:])\s+|\n\s*\n|\n- ", text)
    return [count for part in parts if (count := len(re.findall(r"[A-Za-z0-9'/%.-]+", part))) > 2]


def test_lines_of_prose_are_short(repository: Path) -> None:
    long = [
        f"{path.name}: {line[:60]}"
        for path in pages(repository)
        for line in prose(path)
        if len(line) > WIDTH and " " in line.strip()
    ]
    assert long == []


def test_sentences_are_short(repository: Path) -> None:
    counts = [count for path in pages(repository) for count in sentences(path)]
    assert MEDIAN_LENGTH[0] <= statistics.median(counts) <= MEDIAN_LENGTH[1]


def test_the_docs_use_the_words_of_the_field(repository: Path) -> None:
    matches = [
        f"{path.name}: {match[0]}: {line[:60]}"
        for path in pages(repository)
        for line in CODE.sub("", path.read_text("utf-8")).splitlines()
        if (match := AVOIDED.search(re.sub(r"`[^`]*`", "", line)))
    ]
    assert matches == []
