"""Sizes that keep the code readable: of functions, files and folders; and names with meaning."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.code_shape import folder_sizes, long_functions, private_names

PACKAGE = ("minit2i_deploy", "export", "training", "runtimes")
MAX_FOLDER_FILES = 16
# One file a command, and what they share is in cli/support.
LARGE_FOLDERS = ("minit2i_deploy/cli",)


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """Path from the root -> source of every Python file that git knows."""
    root = Path(__file__).resolve().parent.parent
    listed = subprocess.run(
        ["git", "ls-files", "-z", "*.py"], cwd=root, capture_output=True, text=True, check=True
    )
    paths = [path for path in listed.stdout.split("\0") if path and (root / path).is_file()]
    return {path: (root / path).read_text(encoding="utf-8") for path in paths}


def test_folders_of_the_package_are_small(files: dict[str, str]) -> None:
    sizes = folder_sizes([path for path in files if path.startswith(PACKAGE)])
    large = {folder: count for folder, count in sizes.items() if count > MAX_FOLDER_FILES}
    assert {folder: count for folder, count in large.items() if folder not in LARGE_FOLDERS} == {}


def test_the_counts_count() -> None:
    source = "def f(wanted):\n    found_it = wanted\n    return 1\n"
    assert private_names(source) == ["wanted", "found_it"]
    assert long_functions(source, 3) == []
    assert long_functions(source, 2) == ["f: 3 lines"]
    assert folder_sizes(["a/__init__.py", "a/b.py", "a/c/d.py"]) == {"a": 1, "a/c": 1}
