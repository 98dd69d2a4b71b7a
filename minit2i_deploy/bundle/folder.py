"""The folder of a bundle that is being made: what it may replace, and what it must not."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from minit2i_deploy.bundle.manifest import FILE_NAME, KIND
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import atomic_directory, check_target


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
        overwrite: replace a bundle that stands there; nothing else that is not empty.
        sources: files and folders that the bundle is made from, which its folder must not be
            or hold; a bundle among them must not hold the new one either. None counts for none.

    Raises:
        UsageError: the target exists and may not be replaced, or is a source, holds one or lies in
            a source bundle.
        Minit2iError: the disk failed or is full.
    """
    _check_sources(path, sources)
    with atomic_directory(path, overwrite=overwrite, check=require_bundle) as folder:
        yield folder


def check_bundle_folder(
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    sources: Sequence[str | os.PathLike[str] | None] = (),
) -> None:
    """Refuse what ``bundle_folder`` would refuse; arguments and errors as there."""
    _check_sources(path, sources)
    check_target(Path(path).resolve(), overwrite, require_bundle)


def require_bundle(folder: Path) -> None:
    """Refuse a folder, there already, that minit2i did not make as a bundle.

    A damaged bundle or one of another version will do.

    Raises:
        UsageError: its manifest is missing or says something else.
    """
    try:
        values = json.loads((folder / FILE_NAME).read_bytes())
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict) or values.get("kind") != KIND:
        raise UsageError(
            f"{folder}: is no bundle, and only a bundle is replaced; name a new folder"
        )


def _check_sources(
    path: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str] | None]
) -> None:
    for source in sources:
        if source is not None:
            _check_apart(Path(path), Path(source))


def _check_apart(target: Path, source: Path) -> None:
    # As the system resolves both, so that links and letters of another case do not hide it.
    there, origin = target.resolve(), source.resolve()
    if not origin.exists():
        return
    if there == origin or (there.exists() and there.samefile(origin)):
        raise UsageError(f"{target}: is what the bundle is made from; name another folder")
    if origin.is_relative_to(there):
        raise UsageError(
            f"{target}: holds {source}, which the bundle is made from; name another folder"
        )
    if (origin / FILE_NAME).is_file() and there.is_relative_to(origin):
        raise UsageError(
            f"{target}: lies in {source}, which the bundle is made from; name a folder outside"
        )
