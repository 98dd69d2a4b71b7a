"""Where output goes, found to be writable before the work and not after it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np

from minit2i_deploy.cli.support.formatting import json_text
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_write_bytes, atomic_write_text


def output_file(path: Path, suffix: str) -> Path:
    """Check that a file of that kind can be written there; an older one will be replaced.

    Raises:
        UsageError: another suffix, a folder in the file's place, or a folder that is missing or
            not writable.
    """
    if path.suffix.lower() != suffix:
        raise UsageError(f"{path}: only {suffix} files are written here; name one")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it")
    check_writable(path.parent)
    return path


def new_folder(path: Path) -> Path:
    """Make a folder, or take an empty one.

    Raises:
        UsageError: something is in it already, or it cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be made ({error.strerror}); name a folder you can write"
        ) from error
    if occupied:
        raise UsageError(f"{path}: the folder is not empty; name a new one")
    check_writable(path)
    return path


def free_name(stem: str, suffix: str, taken: Collection[Path] = ()) -> Path:
    """The first of stem, stem-2, stem-3 and so on that is free in the current folder.

    ``taken`` are names that are spoken for and not there yet.
    """
    path, number = Path(f"{stem}{suffix}"), 1
    while path.exists() or path in taken:
        number += 1
        path = Path(f"{stem}-{number}{suffix}")
    return path


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write one array of any shape and type, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    atomic_write_bytes(path, buffer.getvalue())


def write_json(path: Path, values: object) -> None:
    """Write plain values as JSON, as ``--json`` prints them, whole or not at all."""
    atomic_write_text(path, json_text(values) + "\n")


def check_writable(folder: Path) -> None:
    """Write a file there and remove it.

    Raises:
        UsageError: that failed.
    """
    try:
        # Permission bits say nothing on read-only disks and full quotas; writing does.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}); name a folder you can write"
        ) from error
