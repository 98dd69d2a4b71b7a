"""Paths of a recipe: folders that it names, and recipe files by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

import minit2i_deploy
from minit2i_deploy.errors import UsageError

# Folders with this prefix are inside the installed package, on any machine.
PACKAGE_PREFIX: Final = "package:"


def resolve_folder(name: str) -> Path:
    """The folder that a recipe names; with PACKAGE_PREFIX, one inside the installed package."""
    if not name.startswith(PACKAGE_PREFIX):
        return Path(name)
    return Path(minit2i_deploy.__file__).parent / name.removeprefix(PACKAGE_PREFIX)


def resolve_relative(name: str, folder: Path) -> str:
    """An absolute path for a name relative to ``folder``; package names stay as they are."""
    if name.startswith(PACKAGE_PREFIX):
        return name
    return str((folder / name).resolve())


def find_recipe_file(name: Path) -> Path:
    """The file of a recipe: a path, or the bare name of a shipped one.

    Raises:
        UsageError: a bare name is neither a file nor a shipped recipe.
    """
    if name.suffix or len(name.parts) != 1 or name.is_file():
        return name
    shipped = {file.stem: file for file in (Path(__file__).parents[1] / "recipes").glob("*.yaml")}
    if name.name not in shipped:
        near = difflib.get_close_matches(name.name, shipped, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(shipped))}"
        raise UsageError(f"{name}: no such file and no shipped recipe of that name; {hint}")
    return shipped[name.name]
