"""The reference pages name what the package has: commands and options, public names, pages."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import minit2i_deploy


@pytest.fixture(scope="module")
def generator(repository: Path) -> ModuleType:
    path = repository / "scripts" / "cli_reference.py"
    spec = importlib.util.spec_from_file_location("cli_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_reference_is_what_the_parsers_say(generator: ModuleType) -> None:
    written = generator.PAGE.read_text(encoding="utf-8")
    assert written == generator.page(), "run: python scripts/cli_reference.py"


def test_the_api_pages_have_every_public_name(repository: Path) -> None:
    folder = repository / "docs" / "reference"
    text = (folder / "api.md").read_text("utf-8") + (folder / "errors.md").read_text("utf-8")
    documented = set(re.findall(r"^::: [\w.]+\.(\w+)$", text, re.MULTILINE))
    assert set(minit2i_deploy.__all__) - documented == {"__version__"}


def test_every_documented_name_can_be_imported(repository: Path) -> None:
    folder = repository / "docs" / "reference"
    text = (folder / "api.md").read_text("utf-8") + (folder / "errors.md").read_text("utf-8")
    for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_page_is_in_the_navigation(repository: Path) -> None:
    docs = repository / "docs"
    text = (repository / "mkdocs.yml").read_text("utf-8")
    listed = set(re.findall(r"[\w/]+\.md", text.partition("\nnav:\n")[2]))
    assert listed == {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
