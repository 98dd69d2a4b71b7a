"""Files of a bundle in another folder without a second copy of their bytes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

_TEMPLATES = "templates"


def link_file(source: Path, target: Path) -> None:
    """A hard link; a copy where the file system has no links or is another one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The file itself and not a symbolic link to it, which would break with the source.
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def write_values(path: Path, values: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON as the Hugging Face libraries do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_template(name: str, target: Path) -> None:
    """Write the source text that is packaged as ``name``.txt."""
    source = files(__package__) / _TEMPLATES / f"{name}.txt"
    target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
