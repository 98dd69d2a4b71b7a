"""Download released checkpoints from the Hugging Face hub, at a recorded commit."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.find import find_checkpoint
from minit2i_deploy.checkpoints.json_file import read_json
from minit2i_deploy.errors import CheckpointError, Minit2iError, UsageError, require
from minit2i_deploy.io.files import atomic_write_text, disk_is_full, remove_if_empty
from minit2i_deploy.io.lock import output_lock

RECORD_NAME: Final = "pull.json"
TEXT_ENCODER_FOLDER: Final = "text_encoder"

_VERSION: Final = 1
_MAX_REASON: Final = 80
_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Repository:
    """A hub repository, and the files of it that are downloaded.

    Args:
        name: owner and name.
        folder: where the files go, relative to the folder that ``pull`` fills.
        include: patterns of the files to download.
        exclude: patterns of files that are not downloaded even so.
    """

    name: str
    folder: str
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """The files of one repository under ``folder``, and the 40-digit commit they are from."""

    repository: str
    folder: str
    commit: str
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PulledModel:
    """A released model on disk: its folder, the path for ``load_checkpoint``, the sources."""

    folder: Path
    checkpoint: Path
    downloads: tuple[Download, ...]


# Source: the repositories' own listing of their layouts (docs/reference/checkpoints.md).
RELEASES: Final[Mapping[str, Repository]] = {
    "b16": Repository(name="MiniT2I/MiniT2I", folder="", include=("minit2i-b-16/transformer/*",)),
    "l16": Repository(name="MiniT2I/MiniT2I", folder="", include=("minit2i-l-16/transformer/*",)),
    "b16-mf": Repository(
        name="MiniT2I/MiniT2I-B-16-MF-jax",
        folder="minit2i-b-16-mf",
        exclude=("*.md", "*.png", "*.jpg", ".gitattributes", "LICENSE*"),
    ),
}
# The repository holds all of T5 in four formats; the encoder is read from safetensors.
TEXT_ENCODER: Final = Repository(
    name="google/flan-t5-large",
    folder=TEXT_ENCODER_FOLDER,
    include=(
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "spiece.model",
    ),
)


def pull(
    model: str,
    folder: str | Path,
    *,
    revision: str | None = None,
    text_encoder: bool = True,
    bars: bool = False,
) -> PulledModel:
    """Download a released model, or resume an interrupted download.

    Args:
        model: a name in RELEASES.
        folder: new, empty, or from an earlier call for the same model, whose recorded commits
            are used again unless ``revision`` says otherwise.
        revision: branch, tag or commit of the model's repository; None for the default branch.
        text_encoder: also download FLAN-T5-Large.
        bars: show the progress bars of the hub's library.

    Raises:
        UsageError: unknown model or revision, or a folder that holds other files.
        CheckpointError: the hub cannot be reached, or the repository lacks the files.
        Minit2iError: another process is writing the folder, or the disk failed or is full.
        MissingDependencyError: huggingface_hub is not installed.
    """
    if model not in RELEASES:
        raise UsageError(f"model: expected one of {', '.join(RELEASES)}, got {model!r}")
    hub = require("huggingface_hub", "hub")
    target = Path(folder)
    with output_lock(target.resolve()), remove_if_empty(target), _quiet(bars):
        downloads = _pull_into(hub, target, model, revision, text_encoder)
    # The Hub release's file names begin with the model's folder.
    top = downloads[0].folder or downloads[0].files[0].partition("/")[0]
    checkpoint = find_checkpoint(target / top).path
    return PulledModel(folder=target, checkpoint=checkpoint, downloads=downloads)


def _pull_into(
    hub: Any, target: Path, model: str, revision: str | None, text_encoder: bool
) -> tuple[Download, ...]:
    revisions: dict[str, str | None] = dict(_recorded_commits(target, model))
    repositories = (RELEASES[model], *((TEXT_ENCODER,) if text_encoder else ()))
    if revision is not None:
        revisions[RELEASES[model].name] = revision
    downloads = tuple(_resolve(hub, one, revisions.get(one.name), target) for one in repositories)
    _write_record(target, model, downloads, complete=False)
    try:
        for download in downloads:
            _download(hub, download, target)
    except KeyboardInterrupt:
        text = f"{target} is not complete; the same command resumes the download"
        raise KeyboardInterrupt(text) from None
    _write_record(target, model, downloads, complete=True)
    return downloads


@contextlib.contextmanager
def _quiet(bars: bool) -> Iterator[None]:
    """Keep the hub's library from writing lines of its own beside this program's."""
    utils = require("huggingface_hub.utils", "hub")
    if not bars:
        utils.disable_progress_bars()
    before = utils.logging.get_verbosity()
    utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        utils.logging.set_verbosity(before)


def _recorded_commits(folder: Path, model: str) -> dict[str, str]:
    """Repository -> commit of an earlier call on this folder."""
    record = folder / RECORD_NAME
    if not record.exists():
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UsageError(f"{folder}: holds other files; name a new folder")
        return {}
    values = read_json(record)
    if (values.get("version"), values.get("model")) != (_VERSION, model):
        raise UsageError(
            f"{record}: made for model {values.get('model')!r}, not {model!r}; name another folder"
        )
    try:
        return {part["repository"]: str(part["commit"]) for part in values["parts"]}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{record}: corrupt; delete it and name a new folder") from error


def _resolve(hub: Any, repository: Repository, revision: str | None, target: Path) -> Download:
    with _hub_errors(repository.name, revision, target):
        info = hub.HfApi().model_info(repository.name, revision=revision)
    names = sorted(sibling.rfilename for sibling in info.siblings)
    _check_names(repository.name, names)
    files = tuple(name for name in names if _matches(name, repository))
    if not files:
        raise CheckpointError(
            f"{repository.name}: commit {str(info.sha)[:8]} has no "
            f"{', '.join(repository.include)}; give --revision of a commit that has"
        )
    return Download(
        repository=repository.name, folder=repository.folder, commit=str(info.sha), files=files
    )


def _check_names(repository: str, names: Sequence[str]) -> None:
    """Refuse a list of files that would be written outside the folder on some system."""
    for name in names:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or set("\\:\0") & set(name):
            raise CheckpointError(
                f"{repository}: lists the file name {name!r}, which could leave its folder; "
                "nothing was downloaded"
            )


def _matches(name: str, repository: Repository) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in repository.include) and not any(
        fnmatchcase(name, pattern) for pattern in repository.exclude
    )


def _download(hub: Any, download: Download, target: Path) -> None:
    folder = target / download.folder
    with _hub_errors(download.repository, download.commit, target):
        # One by one and in this thread: the library's own loop over files runs in threads, which
        # Ctrl-C and SIGTERM would have to wait for.
        for name in download.files:
            hub.hf_hub_download(
                download.repository, name, revision=download.commit, local_dir=folder
            )
    missing = [name for name in download.files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(download.files)} files are missing, first"
            f" {missing[0]}; run the same command again to resume"
        )


def _write_record(
    folder: Path, model: str, downloads: tuple[Download, ...], *, complete: bool
) -> None:
    values = {
        "version": _VERSION,
        "model": model,
        "complete": complete,
        "parts": [asdict(replace(one, folder=one.folder or ".")) for one in downloads],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be created ({error.strerror}); name a folder you can write"
        ) from error
    atomic_write_text(folder / RECORD_NAME, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def _hub_errors(repository: str, revision: str | None, target: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # two HTTP libraries and the hub's own classes share no base
        # By class name, because the classes moved between modules of the library.
        names = {base.__name__ for base in type(error).__mro__}
        first = str(error).strip().partition("\n")[0]
        # HTTP libraries print their retry history in one long line; the class name says as much.
        reason = first if 0 < len(first) <= _MAX_REASON else type(error).__name__
        if names & {"RevisionNotFoundError", "HFValidationError"}:
            text = f"{repository}: no revision {revision!r}; give a branch, tag or commit of it"
            raise UsageError(text) from error
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            place = error.filename or target
            raise Minit2iError(f"{place}: cannot be written: {error.strerror}") from error
        if disk_is_full(target):
            text = f"{target}: cannot be written: {os.strerror(errno.ENOSPC)}"
            raise Minit2iError(text) from error
        if names & {"RepositoryNotFoundError", "GatedRepoError"}:
            text = f"{repository}: does not exist or needs a login ({reason}); log in with hf"
            raise CheckpointError(text) from error
        raise CheckpointError(
            f"{repository}: cannot reach the hub ({reason}); connect and run this again, or copy"
            " the files here by hand and give their path to minit2i export"
        ) from error
