"""The output folder of a new bundle: what it may replace, and what it must not contain."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from minit2i_deploy.bundle.manifest import FILE_NAME, KIND
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_directory, check_target, remove_leftovers
from minit2i_deploy.io.lock import output_lock


@contextlib.contextmanager
def bundle_folder(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    sources: Sequence[str | os.PathLike[str] | None] = (),
) -> Iterator[Path]:
    """``files.atomic_directory`` for a bundle.

    Args:
        path: the folder to make.
        overwrite: replace an existing bundle; no other folder that is not empty is replaced.
        sources: files and folders that the bundle is made from. Its folder must not be one of
            them or contain one, or be inside a source bundle. None entries are ignored.

    Raises:
        UsageError: the target exists and may not be replaced, or is a source, contains one or is
            inside a source bundle.
        Minit2iError: another process is writing it, or the disk failed or is full.
    """
    _check_sources(path, sources)
    target = Path(path).resolve()
    # Before the lock, so that a refused folder gets no file beside it.
    _check_target(target, overwrite)
    with output_lock(target):
        remove_leftovers(target)
        with atomic_directory(target, overwrite=overwrite, check=require_bundle) as folder:
            yield folder


def check_bundle_folder(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    sources: Sequence[str | os.PathLike[str] | None] = (),
) -> None:
    """Refuse what ``bundle_folder`` would refuse; arguments and errors as there."""
    _check_sources(path, sources)
    # Before the work, which may take an hour; the folder may still change until it is done.
    _check_target(Path(path).resolve(), overwrite)


def require_bundle(folder: Path) -> None:
    """Refuse to replace an existing folder that is not a bundle.

    A corrupt bundle or one of another version is accepted.

    Raises:
        UsageError: its manifest is missing or not a bundle's.
    """
    try:
        values = json.loads((folder / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise UsageError(
            f"{folder}: exists and is not a bundle, so it is not replaced; name a new folder"
        )


def _check_target(target: Path, overwrite: bool) -> None:
    if not overwrite and (target / FILE_NAME).is_file():
        raise UsageError(
            f"{target}: the folder exists and is not empty; name a new folder, or replace the "
            "bundle with --overwrite (overwrite=True in Python)"
        )
    check_target(target, overwrite, require_bundle)


def _check_sources(
    path: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str] | None]
) -> None:
    for source in sources:
        if source is not None:
            _check_apart(Path(path), Path(source))


def _check_apart(target: Path, source: Path) -> None:
    # As the system resolves both: links and case-insensitive names may hide that they are one.
    output, origin = target.resolve(), source.resolve()
    if not origin.exists():
        return
    if output == origin or (output.exists() and output.samefile(origin)):
        raise UsageError(f"{target}: the bundle is made from this path; name another folder")
    if origin.is_relative_to(output):
        raise UsageError(
            f"{target}: contains {source}, which the bundle is made from; name another folder"
        )
    if (origin / FILE_NAME).is_file() and output.is_relative_to(origin):
        raise UsageError(
            f"{target}: is inside {source}, which the bundle is made from; name a folder outside"
        )
