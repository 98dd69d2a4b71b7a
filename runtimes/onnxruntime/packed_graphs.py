"""Graphs in a cache, optimized and with their weights packed for the CPU's kernels.

The library packs the weights of a graph whenever it opens it: into new memory, page by page. From
the cache it maps the packed ones instead. It still packs each weight in passing, and takes a mapped
one only if both have the same hash, so a library or processor that packs otherwise does not read a
foreign order. An entry takes twice the bytes of its graph, and four times in fp16, which the CPU's
kernels widen.

Source: onnxruntime's session options session.save_external_prepacked_constant_initializers and
session.optimized_model_external_initializers_file_name, since 1.20.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import (
    CacheWarning,
    Minit2iError,
    RuntimeFailure,
    UsageError,
)
from minit2i_deploy.io.files import (
    atomic_directory,
    atomic_write_text,
    disk_is_full,
    remove_leftovers,
)
from minit2i_deploy.io.lock import output_lock

FOLDER: Final = "packed"
MODEL_FILE: Final = "model.onnx"
DATA_FILE: Final = "model.onnx.data"
# How entries are made: a part of their key, so that another version makes its own.
FORM: Final = "1"
# Written last; holds the bytes of both.
RECORD_FILE: Final = "record.json"
# Longer than any graph of these models takes to write.
WAIT_S: Final = 120.0
# In fp16, which takes most: weights widened, and those packed, which pads them a little, and the
# graph. Measured: 2.00 of a matrix in fp32 and 4.00 of one in fp16.
_BYTES_OF_SOURCE: Final = 4.2

# open_session of a path and of further settings of session_options.
Open = Callable[..., Any]


def open_packed(open_session: Open, graph: Path, folder: Path, *, wait_s: float = WAIT_S) -> Any:
    """Open a graph from its entry in a cache, which is made where there is none.

    An entry that is corrupt or does not open is made anew, with a CacheWarning when that is done.
    It stays until then, so nothing is lost where the graph itself does not open.

    Args:
        open_session: opens a path with the settings ``optimized`` and ``save``.
        graph: the bundle's file.
        folder: of the cache, for this graph, library, processor and settings.
        wait_s: how long to wait for another process that writes the entry.

    Raises:
        UsageError: the cache cannot be written, or has too little room.
        Minit2iError: another process is writing the entry for longer, or the disk is full.
        RuntimeFailure: the library cannot open the graph.
    """
    place = folder / FOLDER
    session, _ = _open_complete(open_session, place)
    if session is not None:
        return session
    with output_lock(place, wait_s=wait_s):
        # Another process may have written it meanwhile.
        session, reason = _open_complete(open_session, place)
        if session is not None:
            return session
        session = _written(open_session, graph, place)
    if reason:
        warnings.warn(f"{place}: {reason}; it is made anew", CacheWarning, stacklevel=2)
    return session


def _open_complete(open_session: Open, place: Path) -> tuple[Any, str]:
    """The session of a complete entry, or None and why not; "" where there is no entry."""
    if not place.exists():
        return None, ""
    reason = _corrupt(place)
    if reason is None:
        try:
            return open_session(place / MODEL_FILE, optimized=True), ""
        except RuntimeFailure as error:
            reason = str(error)
    return None, reason


def _corrupt(place: Path) -> str | None:
    """Why an entry is not complete; contents are not read, as with the bundle's own files."""
    try:
        sizes = json.loads((place / RECORD_FILE).read_text(encoding="utf-8"))
        for name in (MODEL_FILE, DATA_FILE):
            actual, expected = (place / name).stat().st_size, sizes[name]
            if actual != expected:
                return f"{name} has {actual} bytes, but {RECORD_FILE} says {expected}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is not complete ({error})"
    return None


def _written(open_session: Open, graph: Path, place: Path) -> Any:
    """Write an entry, and return the session that wrote it."""
    remove_leftovers(place)
    _check_room(graph, place)
    try:
        with atomic_directory(place, overwrite=True) as partial:
            session = open_session(graph, save=partial / MODEL_FILE)
            sizes = {name: _synced_size(partial / name) for name in (MODEL_FILE, DATA_FILE)}
            atomic_write_text(partial / RECORD_FILE, json.dumps(sizes, sort_keys=True) + "\n")
    except RuntimeFailure as error:
        if disk_is_full(place.parent):
            raise Minit2iError(f"{place}: cannot be written: the disk is full") from error
        raise
    return session


def _synced_size(file: Path) -> int:
    """Bytes of a file, all of them on the disk before the record says so."""
    # A graph without a large weight has no second file.
    with file.open("ab") as stream:
        os.fsync(stream.fileno())
    return file.stat().st_size


def _check_room(graph: Path, place: Path) -> None:
    """Refuse to begin where the largest entry of a graph would not fit.

    Raises:
        UsageError: so much is not free.
    """
    files = graph.parent.glob(f"{graph.stem}.*")
    needed = int(_BYTES_OF_SOURCE * sum(file.stat().st_size for file in files))
    free = shutil.disk_usage(place.parent).free
    if needed > free:
        raise UsageError(
            f"{place}: needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free there; free "
            "some, name another cache folder, or none"
        )
