"""Find the checkpoint at a path, by asking the registered forms in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minit2i_deploy.checkpoints import forms
from minit2i_deploy.checkpoints.form import Form
from minit2i_deploy.errors import CheckpointError

_HEAD_BYTES: Final = 64
_MAX_LISTED: Final = 6


@dataclass(frozen=True, slots=True)
class Match:
    """A checkpoint: its form, and the file or folder that holds it."""

    form: Form
    path: Path


def find_checkpoint(path: Path) -> Match:
    """The one checkpoint at a path: a file, a folder, or a folder that holds one of these.

    Raises:
        CheckpointError: nothing is there, nothing of a known form, or more than one.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist; give the path of a checkpoint")
    if path.is_file():
        return _match_file(path)
    here = _match(path, None)
    # An adapter's training run leaves an optimizer.pt beside the adapter; that is no model.
    matches = [here] if here else [] if _is_adapter(path) else _matches_inside(path)
    if len(matches) > 1:
        listed = ", ".join(str(match.path.relative_to(path)) for match in matches[:_MAX_LISTED])
        raise CheckpointError(
            f"{path}: holds {len(matches)} checkpoints ({listed}); give the path of one of them"
        )
    if not matches:
        raise CheckpointError(f"{path}: {_folder_refusal(path)}")
    return matches[0]


def _match(path: Path, head: bytes | None) -> Match | None:
    form = next((form for form in forms.FORMS if form.sniff(path, head)), None)
    return None if form is None else Match(form, path)


def _match_file(path: Path) -> Match:
    head = _read_head(path)
    match = _match(path, head)
    if match is None:
        refusal = _form_refusal(path, head) or f"not a checkpoint; {_expected_forms()}"
        raise CheckpointError(f"{path}: {refusal}")
    return match


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(
            f"{path}: not readable ({error.strerror}); check its permissions"
        ) from error


def _matches_inside(path: Path) -> list[Match]:
    """Checkpoints in a folder, and transformers one level further down (the Hub's layout)."""
    matches = []
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            match = _match(entry, None)
            if match is None and entry.name != "transformer" and (entry / "transformer").is_dir():
                match = _match(entry / "transformer", None)
        else:
            # Sockets and broken links have no head to read.
            match = _match(entry, _read_head(entry)) if entry.is_file() else None
        if match is not None and match.form.counts_inside_folder(match.path):
            matches.append(match)
    return matches


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def _folder_refusal(path: Path) -> str:
    if (path / "manifest.json").is_file():
        return "a bundle, which is already exported; give the checkpoint it was made from"
    if _is_adapter(path):
        return "a LoRA adapter; give the base checkpoint here and this folder as lora"
    return _form_refusal(path, None) or f"no checkpoint in it; {_expected_forms()}"


def _form_refusal(path: Path, head: bytes | None) -> str | None:
    refusals = (form.refusal(path, head) for form in forms.FORMS)
    return next((text for text in refusals if text is not None), None)


def _expected_forms() -> str:
    *first, last = (form.description for form in forms.FORMS)
    return f"expected {', '.join(first)} or {last}"
