"""Commands, files and modules that the docs name exist, with the options that they are given."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FENCE = re.compile(r"^ *```(?:sh|bash|)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:minit2i|python benchmarks/)[^`]+)`")
REPOSITORY_FILE = re.compile(
    r"`((?:minit2i_deploy|export|training|runtimes|tests|benchmarks|scripts|examples)"
    r"/[\w./-]+\.\w+)[`: ]"
)
MODULE = re.compile(r"`(minit2i_deploy\.[\w.]+)")


def pages(repository: Path) -> list[Path]:
    names = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/README.md")
    paths = [repository / name for name in names] + sorted((repository / "docs").rglob("*.md"))
    # Its texts are the parsers'.
    return [path for path in paths if path.name != "cli.md"]


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines of a page, without what is in quotes."""
    text = page.read_text("utf-8")
    lines = list(INLINE.findall(text))
    for block in FENCE.findall(text):
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        start = re.search(r"(?:^|\s|/)(minit2i |python benchmarks/)", line)
        if start is None:
            continue
        plain = re.sub(r"\"[^\"]*\"|'[^']*'", "QUOTED", line[start.start() :].strip())
        plain = re.split(r" [|>#] ?| && ", plain)[0]
        yield plain.lstrip("./").split()


@pytest.fixture(scope="module")
def options_of() -> dict[str, set[str]]:
    """Command -> its options, those of its subcommands among them."""
    from minit2i_deploy.cli.commands import COMMANDS
    from minit2i_deploy.cli.support.parser import build_parser

    def strings(parser: argparse.ArgumentParser) -> set[str]:
        options: set[str] = set()
        for action in parser._actions:
            options |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                for child in action.choices.values():
                    options |= strings(child)
        return options

    options = {}
    for command in COMMANDS:
        root = build_parser(command.name)
        (children,) = (a for a in root._actions if isinstance(a, argparse._SubParsersAction))
        options[command.name] = strings(children.choices[command.name])
    return options


def test_options_exist(repository: Path, options_of: dict[str, set[str]]) -> None:
    unknown = []
    for page in pages(repository):
        for program, *arguments in commands(page):
            if program == "python":
                script = repository / arguments[0]
                source = script.read_text("utf-8") if script.is_file() else ""
                known = {word for word in arguments if f'"{word}"' in source}
                name = arguments[0]
            else:
                name = next((word for word in arguments if not word.startswith("-")), "")
                if not re.fullmatch(r"[a-z-]+", name):
                    continue
                known = options_of.get(name, set()) | {"--debug", "--help", "--version"}
            unknown += [
                f"{page.name}: {name} {word}"
                for word in arguments
                if word.startswith("--") and word.partition("=")[0] not in known
            ]
            if program == "minit2i" and name not in options_of:
                unknown.append(f"{page.name}: minit2i {name}")
    assert unknown == []


def test_files_of_the_repository_exist(repository: Path) -> None:
    missing = [
        f"{page.name}: {name}"
        for page in pages(repository)
        for name in REPOSITORY_FILE.findall(page.read_text("utf-8"))
        if "NAME" not in name and not (repository / name).exists()
    ]
    assert missing == []


def test_modules_and_their_names_exist(repository: Path) -> None:
    missing = []
    for page in pages(repository):
        for name in MODULE.findall(page.read_text("utf-8")):
            if not resolves(name.rstrip(".")):
                missing.append(f"{page.name}: {name}")
    assert missing == []


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(
            importlib.import_module(name)
        )
    except ModuleNotFoundError:
        return False


def test_tests_that_pages_name_exist(repository: Path) -> None:
    """What stands behind a claim: docs/guides/nvidia.md names a test for each."""
    sources = [path.read_text("utf-8") for path in (repository / "tests").rglob("test_*.py")]
    defined = {name for text in sources for name in re.findall(r"^def (test_\w+)\(", text, re.M)}
    named = {
        name
        for page in pages(repository)
        for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))
    }
    assert len(named) > 30
    assert named - defined == set()
