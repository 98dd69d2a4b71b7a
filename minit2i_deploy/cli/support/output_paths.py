"""Where output goes, checked to be writable before the work rather than after it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from minit2i_deploy.cli.support.formatting import json_text
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_write_bytes, atomic_write_text


def output_file(path: Path, *suffixes: str) -> Path:
    """Check that a file with one of the suffixes can be written there, or replaced.

    Raises:
        UsageError: another suffix, a folder in the file's place, or a folder that is missing or
            not writable.
    """
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{path}: expected a {listed(suffixes)} file")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it")
    check_writable(path.parent)
    return path


def listed(choices: Sequence[str]) -> str:
    """Choices as text: ``a, b or c``."""
    *first, last = choices
    return f"{', '.join(first)} or {last}" if first else last


def create_folder(path: Path, *, must_be_empty: bool = True) -> Path:
    """Create a folder, or take one that exists.

    Raises:
        UsageError: it is not empty although it must be, or it cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = any(path.iterdir())
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be created ({error.strerror}); name a folder you can write"
        ) from error
    if occupied and must_be_empty:
        raise UsageError(f"{path}: the folder is not empty; name a new one")
    check_writable(path)
    return path


def free_name(folder: Path, stem: str, suffix: str, reserved: Collection[Path] = ()) -> Path:
    """The first of stem, stem-2, stem-3 and so on that does not exist in the folder.

    ``reserved`` are names that other files will get.
    """
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists() or path in reserved:
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write one array of any shape and type, atomically."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    atomic_write_bytes(path, buffer.getvalue())


def write_json(path: Path, values: object) -> None:
    """Write plain values as JSON, as ``--json`` prints them, atomically."""
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
