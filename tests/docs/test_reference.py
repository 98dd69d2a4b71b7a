"""The reference pages name what the package has: commands and options, public names, pages."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import re
import tomllib
from collections.abc import Iterable
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


def names_missing(page: Path, names: Iterable[str]) -> list[str]:
    """Names that the page does not have as code."""
    text = page.read_text("utf-8")
    return sorted(name for name in names if not re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", text))


def test_extras_are_described(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    page = repository / "docs" / "guides" / "install.md"
    assert names_missing(page, project["optional-dependencies"]) == []


def test_solvers_are_described(repository: Path) -> None:
    from minit2i_deploy.solvers.methods import SOLVERS

    assert names_missing(repository / "docs" / "reference" / "sampling.md", SOLVERS) == []


def test_runtimes_are_described(repository: Path) -> None:
    from minit2i_deploy.runtimes import RUNTIMES

    assert names_missing(repository / "docs" / "guides" / "runtimes.md", RUNTIMES) == []


def test_schemes_are_described(repository: Path) -> None:
    from minit2i_deploy.export.quantize.schemes import SCHEMES

    assert names_missing(repository / "docs" / "guides" / "quantize.md", SCHEMES) == []


def test_recipe_keys_are_described(repository: Path) -> None:
    from minit2i_deploy.training.recipe.data import DataRecipe
    from minit2i_deploy.training.recipe.distillation import DistillRecipe
    from minit2i_deploy.training.recipe.lora import LoraRecipe
    from minit2i_deploy.training.recipe.recipe import Recipe

    recipes = (Recipe, DataRecipe, DistillRecipe, LoraRecipe)
    keys = {field.name for recipe in recipes for field in dataclasses.fields(recipe)}
    assert names_missing(repository / "docs" / "reference" / "recipe.md", keys) == []


def test_manifest_fields_are_described(repository: Path) -> None:
    folder = repository / "docs" / "reference"
    manifest = json.loads((folder / "bundle-example.json").read_text("utf-8"))
    assert names_missing(folder / "bundle.md", manifest) == []
