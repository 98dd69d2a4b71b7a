"""Every link of the documentation, and every page that code or texts name, is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ANCHOR = re.compile(r'<a id="([^"]+)">')
MENTION = re.compile(r"\bdocs/[\w./-]+\.(?:md|png|svg|json)\b")
# Goldens and lists of other projects' files name pages that are not ours.
NOT_OURS = ("tests/golden/", "tests/docs/", "findings/")


def tracked_files(repository: Path) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [repository / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def pages(repository: Path) -> list[Path]:
    return [path for path in tracked_files(repository) if path.suffix == ".md"]


def slug(heading: str) -> str:
    """The anchor that GitHub and mkdocs give a heading of plain words and code."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text("utf-8"))
    return {slug(heading) for heading in HEADING.findall(text)} | set(ANCHOR.findall(text))


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            broken.append(f"{page.name}: {link} does not exist")
        elif anchor and anchor not in anchors(target):
            broken.append(f"{page.name}: {link} has no such heading")
    return broken


def test_links_between_pages(repository: Path) -> None:
    assert [line for page in pages(repository) for line in broken_links(page)] == []


def test_pages_that_code_names(repository: Path) -> None:
    missing = []
    for path in tracked_files(repository):
        name = path.relative_to(repository).as_posix()
        if name.startswith(NOT_OURS) or path.suffix not in {
            ".md", ".py", ".hpp", ".cpp", ".h", ".c", ".toml", ".yml", ".yaml", ".sh", ".js", ".ts",
        }:  # fmt: skip
            continue
        for mention in MENTION.findall(path.read_text("utf-8")):
            if not (repository / mention).exists():
                missing.append(f"{name}: {mention}")
    assert missing == []
