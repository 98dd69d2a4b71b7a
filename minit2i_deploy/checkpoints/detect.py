"""What a path holds, told by content."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from minit2i_deploy.errors import CheckpointError

HUB: Final = "huggingface"
TORCH: Final = "torch"
OURS: Final = "minit2i-training"
MSGPACK: Final = "flax-msgpack"
ORBAX: Final = "flax-orbax"

_FORMS: Final = (
    "a Hugging Face folder (config.json beside safetensors), a payload or training .pt file, a "
    "Flax checkpoint (msgpack file or Orbax folder) or a minit2i training checkpoint"
)
_FLAX_KEYS: Final = frozenset({"step", "params", "opt_state", "ema_params_dict", "ema_params"})
_PICKLES: Final = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_ORBAX_UNFINISHED: Final = ".orbax-checkpoint-tmp"
_OURS_FORMAT: Final = "minit2i-training"


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint: its form and the file or folder that holds it."""

    form: str
    path: Path


def find_checkpoint(path: Path) -> Found:
    """The one checkpoint at a path: a file, a folder, or a folder that holds one of these.

    Raises:
        CheckpointError: nothing is there, nothing known, or more than one.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: does not exist; give the path of a checkpoint")
    if path.is_file():
        return _file(path)
    here = _folder(path)
    # The checkpoint of an adapter's run has an optimizer.pt beside it, which is no model.
    is_adapter = (path / "adapter_config.json").is_file()
    found = [here] if here else [] if is_adapter else _inside(path)
    if len(found) > 1:
        shown = ", ".join(str(item.path.relative_to(path)) for item in found[:6])
        raise CheckpointError(
            f"{path}: holds {len(found)} checkpoints ({shown}); give the path of one of them"
        )
    if not found:
        raise CheckpointError(f"{path}: {_why_none(path)}")
    return found[0]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: the file cannot be read or is no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable as JSON ({type(error).__name__}: {error}); copy the folder again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object; copy the folder again")
    return value


def _file(path: Path) -> Found:
    form = _file_form(path)
    if form is None:
        if _head(path)[:2] in _PICKLES:
            raise CheckpointError(
                f"{path}: a bare pickle, which runs code when it is opened; refused, save it "
                "again with torch.save of torch 1.6 or later"
            )
        raise CheckpointError(f"{path}: not a checkpoint known here; wanted {_FORMS}")
    if form == HUB and not (path.parent / "config.json").is_file():
        beside = path.parent / "adapter_config.json"
        raise CheckpointError(
            f"{path}: a LoRA adapter; give the base checkpoint here and this as lora"
            if beside.is_file()
            else f"{path}: no config.json beside it; put the transformer's config.json there"
        )
    return Found(form, path)


def _file_form(path: Path) -> str | None:
    head = _head(path)
    if head.startswith(b"PK\x03\x04"):
        return TORCH if _is_torch_zip(path) else None
    header_bytes = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= header_bytes < 2**31:
        return HUB
    if _first_msgpack_key(head) in _FLAX_KEYS:
        return MSGPACK
    return None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise CheckpointError(
            f"{path}: not readable ({error.strerror}); check its permissions"
        ) from error


def _is_torch_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        # Cut off: the reader's error says so.
        return True


def _first_msgpack_key(head: bytes) -> str | None:
    """First key of a map, if the bytes begin one with a short string as key."""
    if not head:
        return None
    skip = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0)
    if not skip or len(head) <= skip or not 0xA0 <= head[skip] <= 0xBF:
        return None
    start = skip + 1
    return head[start : start + head[skip] - 0xA0].decode("utf-8", "replace")


def _folder(path: Path) -> Found | None:
    """The checkpoint that the folder itself is."""
    if _ORBAX_UNFINISHED in path.name:
        return None
    if (path / "_METADATA").is_file():
        return Found(ORBAX, path)
    described = path / "checkpoint.json"
    if described.is_file() and read_json(described).get("format") == _OURS_FORMAT:
        return Found(OURS, path)
    if (path / "config.json").is_file() and weight_files(path):
        return Found(HUB, path)
    return None


def weight_files(folder: Path) -> list[Path]:
    """safetensors files directly in a folder, shards among them."""
    return sorted(file for file in folder.glob("*.safetensors") if file.is_file())


def _inside(path: Path) -> list[Found]:
    """Checkpoints in a folder, and transformers one level further down (the Hub's layout)."""
    found = []
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            item = _folder(entry)
            if item is None and entry.name != "transformer" and (entry / "transformer").is_dir():
                item = _folder(entry / "transformer")
        else:
            form = _file_form(entry) if entry.is_file() else None
            item = Found(form, entry) if form in (TORCH, MSGPACK) else None
        if item is not None and not (item.form == HUB and _is_text_encoder(item.path)):
            found.append(item)
    return found


def _is_text_encoder(folder: Path) -> bool:
    return "architectures" in read_json(folder / "config.json")


def _why_none(path: Path) -> str:
    if (path / "manifest.json").is_file():
        return "a bundle, which is exported already; give the checkpoint it was made from"
    if (path / "adapter_config.json").is_file():
        return "a LoRA adapter; give the base checkpoint here and this folder as lora"
    if (path / "config.json").is_file():
        return "config.json without safetensors weights beside it; copy the folder again"
    return f"no checkpoint in it; wanted {_FORMS}"
