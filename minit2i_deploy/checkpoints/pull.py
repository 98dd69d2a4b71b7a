"""Released checkpoints from the Hugging Face hub: the files needed, at one recorded commit."""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.checkpoints.detect import find_checkpoint, read_json
from minit2i_deploy.errors import CheckpointError, Minit2iError, UsageError, require
from minit2i_deploy.io.files import atomic_write_text

RECORD_NAME: Final = "pull.json"
TEXT_ENCODER_FOLDER: Final = "text_encoder"

_VERSION: Final = 1
_MAX_REASON: Final = 80
_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One repository: its files that match ``wanted`` and not ``unwanted`` go to ``folder``."""

    repository: str
    folder: str
    wanted: tuple[str, ...] = ("*",)
    unwanted: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PulledPart:
    """What came from one repository: its 40-digit commit and the files, under ``folder``."""

    repository: str
    folder: str
    commit: str
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """A released model on disk: the path for ``load_checkpoint``, and where its files are from."""

    folder: Path
    checkpoint: Path
    parts: tuple[PulledPart, ...]


# Source: the repositories' own listing of their layouts (docs/reference/checkpoints.md).
RELEASES: Final[Mapping[str, Part]] = {
    "b16": Part(repository="MiniT2I/MiniT2I", folder="", wanted=("minit2i-b-16/transformer/*",)),
    "l16": Part(repository="MiniT2I/MiniT2I", folder="", wanted=("minit2i-l-16/transformer/*",)),
    "b16-mf": Part(
        repository="MiniT2I/MiniT2I-B-16-MF-jax",
        folder="minit2i-b-16-mf",
        unwanted=("*.md", "*.png", "*.jpg", ".gitattributes", "LICENSE*"),
    ),
}
# The repository holds the whole T5 in four formats; the encoder is read from this one.
TEXT_ENCODER: Final = Part(
    repository="google/flan-t5-large",
    folder=TEXT_ENCODER_FOLDER,
    wanted=(
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
) -> Pulled:
    """Fetch a released model; run again after an interruption, it goes on where it stopped.

    Args:
        model: a name in RELEASES.
        folder: new, empty, or one that this function began for the same model. The commits in
            its record are kept unless ``revision`` is given.
        revision: branch, tag or commit of the model's repository; without it, the default branch.
        text_encoder: whether FLAN-T5-Large comes along.
        bars: let the hub's library draw its progress bars.

    Raises:
        UsageError: unknown model or revision, or a folder that holds something else.
        CheckpointError: the hub cannot be reached, or the repository is not what it was.
        MissingDependencyError: huggingface_hub is not installed.
    """
    if model not in RELEASES:
        raise UsageError(f"model {model!r} is unknown; choose one of {', '.join(RELEASES)}")
    hub = require("huggingface_hub", "hub")
    if not bars:
        require("huggingface_hub.utils", "hub").disable_progress_bars()
    target = Path(folder)
    recorded = _recorded(target, model)
    wanted = (RELEASES[model], *((TEXT_ENCODER,) if text_encoder else ()))
    asked = {part.repository: recorded.get(part.repository) for part in wanted}
    if revision is not None:
        asked[RELEASES[model].repository] = revision
    parts = tuple(_resolve(hub, part, asked[part.repository]) for part in wanted)
    _write_record(target, model, parts, complete=False)
    for part in parts:
        _download(hub, part, target / part.folder)
    _write_record(target, model, parts, complete=True)
    # The Hub release's files name their own folder.
    top = parts[0].folder or parts[0].files[0].partition("/")[0]
    return Pulled(folder=target, checkpoint=find_checkpoint(target / top).path, parts=parts)


def _recorded(folder: Path, model: str) -> dict[str, str]:
    """Repository -> commit of an earlier call on this folder."""
    record = folder / RECORD_NAME
    if not record.exists():
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UsageError(f"{folder}: holds something else; name a new folder")
        return {}
    values = read_json(record)
    if (values.get("version"), values.get("model")) != (_VERSION, model):
        raise UsageError(
            f"{record}: made for model {values.get('model')!r}, not {model!r}; name another folder"
        )
    try:
        return {part["repository"]: str(part["commit"]) for part in values["parts"]}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{record}: damaged; delete it and name a new folder") from error


def _resolve(hub: Any, part: Part, revision: str | None) -> PulledPart:
    with _hub_errors(part.repository, revision):
        info = hub.HfApi().model_info(part.repository, revision=revision)
    names = sorted(sibling.rfilename for sibling in info.siblings)
    files = tuple(name for name in names if _matches(name, part.wanted, part.unwanted))
    if not files:
        raise CheckpointError(
            f"{part.repository}: commit {str(info.sha)[:8]} has no {', '.join(part.wanted)}; "
            "give --revision of a commit that has"
        )
    return PulledPart(
        repository=part.repository, folder=part.folder, commit=str(info.sha), files=files
    )


def _matches(name: str, wanted: tuple[str, ...], unwanted: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, one) for one in wanted) and not any(
        fnmatchcase(name, one) for one in unwanted
    )


def _download(hub: Any, part: PulledPart, folder: Path) -> None:
    with _hub_errors(part.repository, part.commit):
        hub.snapshot_download(
            part.repository,
            revision=part.commit,
            local_dir=folder,
            allow_patterns=list(part.files),
        )
    # The library returns an unfinished folder, with a warning, where the connection broke early.
    missing = [name for name in part.files if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(part.files)} files did not come, first"
            f" {missing[0]}; run the same command again, it goes on where it stopped"
        )


def _write_record(
    folder: Path, model: str, parts: tuple[PulledPart, ...], *, complete: bool
) -> None:
    values = {
        "version": _VERSION,
        "model": model,
        "complete": complete,
        "parts": [asdict(replace(part, folder=part.folder or ".")) for part in parts],
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}); name a folder you can write"
        ) from error
    atomic_write_text(folder / RECORD_NAME, json.dumps(values, indent=2) + "\n")


@contextlib.contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # two HTTP libraries and the hub's own classes share no base
        # By name, because the classes moved between modules of the library.
        names = {base.__name__ for base in type(error).__mro__}
        first = str(error).strip().partition("\n")[0]
        # HTTP libraries print their retry history in one line; its class says as much.
        reason = first if 0 < len(first) <= _MAX_REASON else type(error).__name__
        if names & {"RevisionNotFoundError", "HFValidationError"}:
            text = f"{repository}: no revision {revision!r}; give a branch, tag or commit of it"
            raise UsageError(text) from error
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise Minit2iError(f"{error.filename}: cannot be written: {error.strerror}") from error
        if names & {"RepositoryNotFoundError", "GatedRepoError"}:
            text = (
                f"{repository}: not there, or not open to this account ({reason}); log in with hf"
            )
            raise CheckpointError(text) from error
        raise CheckpointError(
            f"{repository}: the hub cannot be reached ({reason}); connect and run this again, or"
            " copy the files here by hand and give their path to minit2i export"
        ) from error
