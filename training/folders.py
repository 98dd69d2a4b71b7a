"""Folders that a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import minit2i_deploy

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
