"""File names in a bundle: those that the format fixes, and the rules for all others."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Final

FILE_NAME: Final = "manifest.json"
ENGINES: Final = "engines"
# Values that runtimes compare their own with; only bundles whose precision overflows have it.
REFERENCE_OUTPUTS: Final = "reference_outputs.json"

# optimum fetches MODEL and MODEL_data from a hub, and no other file beside a graph, so the text
# encoder's weights are named like this. The other graphs, and older bundles, have the second form.
HUB_DATA_SUFFIX: Final = "_data"
DATA_SUFFIX: Final = ".data"

_PART: Final = re.compile(r"[A-Za-z0-9._+-]+")
# Windows takes 260 characters, the folder's own path included.
_MAX_PATH_CHARACTERS: Final = 240


def data_file(graph: str, names: Container[str]) -> str:
    """Name of the file with a graph's weights.

    Args:
        graph: name of the graph's file.
        names: the files that exist.
    """
    hub_name = f"{graph}{HUB_DATA_SUFFIX}"
    return hub_name if hub_name in names else f"{graph}{DATA_SUFFIX}"


def data_beside(graph: Path) -> Path:
    """Path of the file with the weights of a graph on disk.

    Raises:
        OSError: the folder cannot be read.
    """
    return graph.with_name(data_file(graph.name, os.listdir(graph.parent)))


def check_relative(path: str) -> None:
    """Refuse a path that could leave the folder or mean two files on some system.

    Raises:
        ValueError: the path is not parts of letters, digits, dot, dash, plus and underscore
            joined by single slashes, or has a part that is ``.`` or ``..`` or ends in a dot.
    """
    parts = path.split("/")
    # Windows drops a dot at the end of a name.
    plain = all(_PART.fullmatch(part) and not part.endswith(".") for part in parts)
    if not plain or len(path) > _MAX_PATH_CHARACTERS:
        raise ValueError(
            f"file name {path[:80]!r} must be relative, of letters, digits and . _ + - with single"
            " slashes between"
        )


def check_file_names(names: Iterable[str]) -> None:
    """Refuse a list of files that some file system could not store under these names.

    Args:
        names: paths in the bundle.

    Raises:
        ValueError: a name that ``check_relative`` refuses, two that differ in case only, the
            manifest itself, or a file of the engine cache.
    """
    folded: dict[str, str] = {}
    for path in names:
        check_relative(path)
        # macOS and Windows take names that differ in case for one file.
        key = path.casefold()
        if key in folded:
            raise ValueError(f"file names {folded[key]!r} and {path!r} differ in case only")
        if key == FILE_NAME or key.split("/")[0] == ENGINES:
            raise ValueError(f"file {path!r} must not be listed in files")
        folded[key] = path
