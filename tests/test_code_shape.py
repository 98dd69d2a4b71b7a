"""Sizes that keep the code readable: of functions, files and folders; and names with meaning."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.helpers.code_shape import folder_sizes, long_functions, private_names

PACKAGE = ("minit2i_deploy/", "export/", "training/", "runtimes/")
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_FOLDER_FILES = 16
MAX_PRIVATE_NAMES = 15
# One file a command, and what they share is in cli/support.
LARGE_FOLDERS = ("minit2i_deploy/cli",)


@pytest.fixture(scope="module")
def files(repository: Path) -> dict[str, str]:
    """Path from the root -> source of every Python file that git knows."""
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "*.py"]
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    paths = [path for path in listed.stdout.split("\0") if path and (repository / path).is_file()]
    return {path: (repository / path).read_text(encoding="utf-8") for path in paths}


def test_functions_are_short(files: dict[str, str]) -> None:
    long = {path: long_functions(source, MAX_FUNCTION_LINES) for path, source in files.items()}
    assert [path for path, names in long.items() if names] == []


def test_files_are_short(files: dict[str, str]) -> None:
    assert [path for path, source in files.items() if source.count("\n") > MAX_FILE_LINES] == []


def test_folders_of_the_package_are_small(files: dict[str, str]) -> None:
    sizes = folder_sizes([path for path in files if path.startswith(PACKAGE)])
    large = {folder: count for folder, count in sizes.items() if count > MAX_FOLDER_FILES}
    assert {folder: count for folder, count in large.items() if folder not in LARGE_FOLDERS} == {}


@pytest.mark.parametrize("folder", [*PACKAGE, "benchmarks/"])
def test_names_say_what_they_hold(folder: str, files: dict[str, str]) -> None:
    sources = {path: source for path, source in files.items() if path.startswith(folder)}
    names = {path: private_names(source) for path, source in sources.items()}
    num_lines = sum(source.count("\n") for source in sources.values())
    num_names = sum(map(len, names.values()))
    assert num_names / num_lines * 10_000 <= MAX_PRIVATE_NAMES, {
        path: each for path, each in names.items() if each
    }


def test_the_counts_count() -> None:
    source = "def f(wanted):\n    found_it = wanted\n    return 1\n"
    assert private_names(source) == ["wanted", "found_it"]
    assert long_functions(source, 3) == []
    assert long_functions(source, 2) == ["f: 3 lines"]
    assert folder_sizes(["a/__init__.py", "a/b.py", "a/c/d.py"]) == {"a": 1, "a/c": 1}
