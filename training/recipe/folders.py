"""Folders that a recipe names, and where recipes are."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

import minit2i_deploy
from minit2i_deploy.errors import UsageError

# Folders that start so are looked up inside the installed package, on whatever machine.
PACKAGE_PREFIX: Final = "package:"


def folder_named(name: str) -> Path:
    """The folder of a recipe's text, inside the installed package if it starts so."""
    if not name.startswith(PACKAGE_PREFIX):
        return Path(name)
    return Path(minit2i_deploy.__file__).parent / name.removeprefix(PACKAGE_PREFIX)


def beside(name: str, folder: Path) -> str:
    """The text that means the same from anywhere; ``name`` is relative to ``folder``."""
    if name.startswith(PACKAGE_PREFIX):
        return name
    return str((folder / name).resolve())


def recipe_file(name: Path) -> Path:
    """The file of a recipe: a path, or the bare name of a shipped one.

    Raises:
        UsageError: a bare name is neither a file nor a shipped recipe's.
    """
    if name.suffix or len(name.parts) != 1 or name.is_file():
        return name
    shipped = {file.stem: file for file in (Path(__file__).parents[1] / "recipes").glob("*.yaml")}
    if name.name not in shipped:
        near = difflib.get_close_matches(name.name, shipped, n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped are {', '.join(sorted(shipped))}"
        raise UsageError(f"{name}: there is no such file, and no recipe of that name; {hint}")
    return shipped[name.name]
