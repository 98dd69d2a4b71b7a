"""The identity of a job, stored once in its folder: only the same job may add blocks to it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy._version import __version__
from minit2i_deploy.errors import UsageError
from minit2i_deploy.io.files import write_error
from minit2i_deploy.io.strict_json import decode, parse_json

# With an underscore, readers of Parquet folders skip it.
JOB_FILE: Final = "_job.json"
# Of a job's folder, which is beside its output.
SUFFIX: Final = ".shards"
INSIDE, BESIDE = "inside", "beside"
FORMAT_VERSION: Final = 1
_MAX_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every block of a folder is made of, and how; without a time or a machine.

    Args:
        kind: of work: "embed", "images", "pack" or "data embed".
        bundle: digest of the bundle; "" for work without one.
        input_sha256: hash of the input, an items file or a list of names and sizes.
        num_items: items of the input: lines, prompts or images.
        block_items: items of every block but the last.
        data: place of the files: INSIDE the job's folder, or BESIDE it under the name without
            SUFFIX.
        settings: whatever else changes the bytes, as plain JSON values.
        version: of this package.
        format_version: FORMAT_VERSION.
    """

    kind: str
    bundle: str
    input_sha256: str
    num_items: int
    block_items: int
    data: str
    settings: object
    version: str = __version__
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.block_items < 1:
            raise UsageError(f"block: expected at least 1 item, got {self.block_items}")

    @property
    def num_blocks(self) -> int:
        """Number of blocks, the last of which may be smaller."""
        return -(-self.num_items // self.block_items)

    def data_folder(self, folder: Path) -> Path:
        """Where the files of a job in ``folder`` are."""
        return folder if self.data == INSIDE else output_of(folder)

    def items(self, block: int) -> range:
        """Indexes of the items of a block, from 0."""
        start = block * self.block_items
        return range(start, min(start + self.block_items, self.num_items))

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job of a folder.

        Raises:
            UsageError: the folder has none, or one of another version or form.
        """
        path = folder / JOB_FILE
        try:
            values = parse_json(path.read_bytes())
            version = values.get("format_version") if isinstance(values, dict) else None
            if version != FORMAT_VERSION:
                raise ValueError(f"format_version is {version!r}, expected {FORMAT_VERSION}")
            job: Job = decode(cls, values, JOB_FILE)
            return job
        except OSError as error:
            raise UsageError(
                f"{folder}: has no {JOB_FILE} ({error.strerror}); name the .shards folder of a "
                "sharded run"
            ) from error
        except ValueError as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error

    def check(self, folder: Path) -> None:
        """Check that a folder, if it has a job, has this one; nothing is written.

        Raises:
            UsageError: it is of another job.
        """
        if (folder / JOB_FILE).exists():
            _check_same(folder, Job.read(folder), self)

    def join(self, folder: Path) -> None:
        """Store this job in a folder, or check that the job there is the same.

        Several processes may call this at once.

        Raises:
            UsageError: the folder is of another job, or may not be written.
            Minit2iError: the disk failed or is full.
        """
        path = folder / JOB_FILE
        if not path.exists():
            _write_new(path, json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n")
        _check_same(folder, Job.read(folder), self)


def job_folder(output: Path) -> Path:
    """The folder of the job that makes an output: beside it."""
    return output.with_name(f"{output.name}{SUFFIX}")


def output_of(folder: Path) -> Path:
    """The output of the job in a folder."""
    return folder.with_name(folder.name.removesuffix(SUFFIX))


def _check_same(folder: Path, stored: Job, job: Job) -> None:
    advice = "name another output, or delete that folder"
    if stored.bundle != job.bundle:
        raise UsageError(
            f"{folder}: its blocks are of bundle {stored.bundle[:12]}.., but this is bundle "
            f"{job.bundle[:12]}..; {advice}"
        )
    if stored.input_sha256 != job.input_sha256:
        raise UsageError(
            f"{folder}: its input has sha256 {stored.input_sha256[:12]}.., but this input has "
            f"{job.input_sha256[:12]}..; {advice}"
        )
    before, now = (_flat(dataclasses.asdict(one)) for one in (stored, job))
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if differing:
        one, other = (
            ", ".join(f"{key} {_shown(values.get(key))}" for key in differing[:_MAX_SHOWN])
            for values in (before, now)
        )
        raise UsageError(f"{folder}: is of a run with {one}, this one has {other}; {advice}")


def _shown(value: object) -> str:
    """A setting as JSON; of a digest the first digits."""
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return f'"{value[:12]}.."'
    return json.dumps(value)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with the settings among them."""
    settings = values["settings"]
    rest = {key: value for key, value in values.items() if key != "settings"}
    # Through JSON, as the stored ones went: tuples are lists there.
    return rest | json.loads(json.dumps(settings))


def _write_new(path: Path, text: str) -> None:
    """Write a file unless it is there: of several processes, the first wins."""
    # Processes in containers often have the same pid, so a random name.
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "x", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(partial, path)
        except FileExistsError:
            pass
        except OSError:
            # A file system without links: the last wins, and all compare what is there.
            os.replace(partial, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
