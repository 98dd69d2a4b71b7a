"""A graph and its data as files side by side, for engines that refuse links out of a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def graph_without_links(path: Path) -> Iterator[Path]:
    """The path of an ONNX graph, or of its double in a temporary folder if the files are links.

    In the Hugging Face hub's cache every file is a link into a folder of hashes. OpenVINO (2026.4)
    refuses weights that are outside the folder of their graph. A double is a hard link where the
    file system has such, else a copy, and is gone after the block.

    Args:
        path: of the graph; its data file has the same name and a suffix.
    """
    files = {file.name: file.resolve() for file in path.parent.glob(f"{path.name}*")}
    if all(file.is_relative_to(path.parent.resolve()) for file in files.values()):
        yield path
        return
    with _folder_beside(files[path.name].parent) as folder:
        for name, file in files.items():
            try:
                os.link(file, folder / name)
            except OSError:
                shutil.copyfile(file, folder / name)
        yield folder / path.name


@contextlib.contextmanager
def _folder_beside(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same file system if that can be written, else anywhere."""
    parent = str(folder.parent) if os.access(folder.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".minit2i-", dir=parent) as temporary:
        yield Path(temporary)
