"""Blocks on disk: a block counts once its mark, written after its files, is there."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from minit2i_deploy.errors import Minit2iError
from minit2i_deploy.io.files import atomic_write_text, sha256_file, write_error
from minit2i_deploy.io.strict_json import decode, parse_json

MARKS_FOLDER: Final = "_blocks"
MARK_SUFFIX: Final = ".done"


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockFile:
    """Hash and size of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockMark:
    """What a finished block consists of; the same block has the same mark, whoever made it.

    Args:
        bundle: digest of the bundle that made it; "" for work without one.
        start, stop: its items.
        files: path in the data folder -> the file.
        counts: numbers that the whole job adds up or takes the largest of.
        problems: item, counted from 1, and what was wrong with it.
    """

    bundle: str
    start: int
    stop: int
    files: Mapping[str, BlockFile]
    counts: Mapping[str, int]
    problems: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class BlockResult:
    """What a worker hands over when the files of a block are written."""

    files: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()


def mark_path(folder: Path, block: int) -> Path:
    """The mark of a block."""
    return folder / MARKS_FOLDER / f"{block:06d}{MARK_SUFFIX}"


def write_mark(folder: Path, data: Path, block: int, mark: BlockMark) -> None:
    """Write the mark of a block whose files are in ``data``.

    Raises:
        UsageError: the folder may not be written.
        Minit2iError: the disk failed or is full.
    """
    path = mark_path(folder, block)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path.parent, error) from error
    atomic_write_text(path, json.dumps(dataclasses.asdict(mark), sort_keys=True) + "\n")


def hashed_files(data: Path, names: Sequence[str]) -> dict[str, BlockFile]:
    """Hash and size of files, by their paths in ``data``."""
    return {
        name: BlockFile(sha256=sha256_file(data / name), bytes=(data / name).stat().st_size)
        for name in names
    }


def read_mark(folder: Path, block: int) -> BlockMark | None:
    """The mark of a block; None where it is missing.

    Raises:
        Minit2iError: it is corrupt.
    """
    path = mark_path(folder, block)
    try:
        mark: BlockMark = decode(BlockMark, parse_json(path.read_bytes()), path.name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Minit2iError(f"{path}: corrupt: {error}") from error
    return mark


def is_done(folder: Path, data: Path, block: int) -> bool:
    """Whether a block has a readable mark and files of the sizes that it names."""
    try:
        mark = read_mark(folder, block)
    except Minit2iError:
        return False
    if mark is None:
        return False
    return all(_size(data / name) == item.bytes for name, item in mark.files.items())


def problem_of(folder: Path, data: Path, block: int, bundle: str) -> str | None:
    """What is wrong with a block that has a mark, found by hashing its files; None if nothing.

    A block without a mark is not wrong: it is missing.
    """
    try:
        mark = read_mark(folder, block)
    except Minit2iError as error:
        return str(error)
    if mark is None:
        return None
    if mark.bundle != bundle:
        return (
            f"{mark_path(folder, block)}: of bundle {mark.bundle[:12]}.., but the job is of "
            f"{bundle[:12]}.."
        )
    for name, item in mark.files.items():
        path = data / name
        if not path.is_file():
            return f"{path}: missing"
        digest = sha256_file(path)
        if digest != item.sha256:
            return f"{path}: has sha256 {digest[:12]}.., expected {item.sha256[:12]}.."
    return None


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
