"""Training checkpoints: folders that appear complete or not at all.

step-001000/
  checkpoint.json      format, version, step, config, recipe
  model.safetensors    online weights, canonical names, float32
  ema.safetensors      their moving average, the weights to deploy
  optimizer.pt         optimizer state, read with weights_only

A checkpoint of an adapter's run holds only its matrices in these two, and the PEFT adapter to
deploy:
adapter_config.json and adapter_model.safetensors.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minit2i_deploy.checkpoints.text_identity import KEY as TEXT_IDENTITY_KEY
from minit2i_deploy.checkpoints.text_identity import TextIdentity, recorded_identity
from minit2i_deploy.errors import TrainingError
from minit2i_deploy.io.files import atomic_directory, disk_is_full
from minit2i_deploy.training.lora.adapter_folder import write_adapter
from minit2i_deploy.training.recipe.recipe import Recipe

FORMAT: Final = "minit2i-training"
# A format of its own, because no reader can make a complete network of it.
LORA_FORMAT: Final = "minit2i-lora-training"
VERSION: Final = 1
# The key of a student's conditions, as checkpoints that exist have it.
CONDITIONS_KEY: Final = "told"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingState:
    """What a run continues from.

    Args:
        step: optimizer steps made so far.
        model: online weights, float32 under canonical names.
        ema: their moving average, likewise.
        optimizer: ``Optimizers.state_dict``'s form.
        teacher_sha256: digest of the teacher's weights; None for a base model.
        base_sha256: digest of the weights that adapters are trained on; None without adapters.
        text_identity: which text encoder and tokenizer captions are encoded with; None in
            checkpoints that predate it.
        data: state of the data source, plain values; None in checkpoints that predate it.
    """

    step: int
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    teacher_sha256: str | None = None
    base_sha256: str | None = None
    text_identity: TextIdentity | None = None
    data: Mapping[str, Any] | None = None


def save_checkpoint(folder: Path, recipe: Recipe, state: TrainingState) -> Path:
    """Write ``folder/step-NNNNNN`` atomically, then delete old ones that the recipe does not keep.

    Returns:
        the new checkpoint's folder.

    Raises:
        UsageError: the folder cannot be written.
        TrainingError: the disk failed or is full; earlier checkpoints are untouched.
    """
    target = folder / f"step-{state.step:06d}"
    with atomic_directory(target, overwrite=True) as partial:
        try:
            _write(partial, recipe, state)
        except (OSError, RuntimeError, SafetensorError) as error:
            text = " ".join(str(error).split())[:200]
            reason = "the disk is full" if disk_is_full(partial) else text
            raise TrainingError(
                f"{target}: cannot be written ({reason}); the checkpoint before it is untouched, "
                "free some space and run the same command again"
            ) from error
    for old in list_checkpoints(folder)[: -recipe.keep_last]:
        if recipe.keep_every and _step_of(old) % recipe.keep_every == 0:
            continue
        # Renamed first, so that a kill half-way leaves nothing that looks complete.
        partial = old.with_name(f".{old.name}.partial-{os.getpid()}")
        os.replace(old, partial)
        shutil.rmtree(partial)
    return target


def _write(partial: Path, recipe: Recipe, state: TrainingState) -> None:
    save_file(_on_cpu(state.model), partial / "model.safetensors")
    save_file(_on_cpu(state.ema), partial / "ema.safetensors")
    torch.save(state.optimizer, partial / "optimizer.pt")
    if state.base_sha256 is not None:
        write_adapter(partial, recipe, state.ema, state.base_sha256)
    header = {
        "format": _format(recipe),
        "version": VERSION,
        "step": state.step,
        "config": recipe.model.to_dict(),
        "recipe": recipe.to_dict(),
    }
    distill = recipe.distill
    optional = {
        "teacher_sha256": state.teacher_sha256,
        "base_sha256": state.base_sha256,
        TEXT_IDENTITY_KEY: state.text_identity and state.text_identity.to_dict(),
        "data": state.data,
        CONDITIONS_KEY: None if distill is None else distill.conditions(recipe.sample_guidance),
    }
    header |= {key: value for key, value in optional.items() if value is not None}
    text = json.dumps(header, indent=2, sort_keys=True) + "\n"
    (partial / "checkpoint.json").write_text(text, encoding="utf-8")
    for path in partial.iterdir():
        # Synced before the rename, or a power cut could leave a complete folder of empty files.
        with open(path, "rb+") as stream:
            os.fsync(stream.fileno())


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    complete = [path for path in folder.glob("step-*") if (path / "checkpoint.json").is_file()]
    return sorted(complete, key=lambda path: (len(path.name), path.name))


def remove_partial_checkpoints(folder: Path) -> None:
    """Delete what a killed run left half-written; the caller holds the folder's lock."""
    for path in folder.glob(".step-*.partial-*"):
        shutil.rmtree(path)


def load_checkpoint_state(path: Path, recipe: Recipe) -> TrainingState:
    """Read what a run continues from.

    Args:
        path: a folder that ``list_checkpoints`` returns.
        recipe: of the run that continues, with the checkpoint's network.

    Raises:
        TrainingError: the checkpoint is corrupt, of another version or of another network.
    """
    try:
        header = json.loads((path / "checkpoint.json").read_text(encoding="utf-8"))
        _check_header(path, header, recipe)
        return TrainingState(
            step=int(header["step"]),
            model=load_file(path / "model.safetensors"),
            ema=load_file(path / "ema.safetensors"),
            optimizer=torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu"),
            teacher_sha256=header.get("teacher_sha256"),
            base_sha256=header.get("base_sha256"),
            text_identity=recorded_identity(path),
            data=header.get("data"),
        )
    except (
        AttributeError,
        EOFError,
        KeyError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"{path}: cannot be read ({type(error).__name__}: {reason}); delete this folder to "
            "continue from the checkpoint before it"
        ) from error


def _check_header(path: Path, header: dict[str, Any], recipe: Recipe) -> None:
    if header.get("format") != _format(recipe) or header.get("version") != VERSION:
        raise TrainingError(
            f"{path}: format {header.get('format')!r} version {header.get('version')!r}, expected "
            f"{_format(recipe)!r} version {VERSION}; resume with the recipe and the release that "
            "wrote it"
        )
    theirs, ours = header["config"], recipe.model.to_dict()
    different = sorted(key for key in theirs.keys() | ours if theirs.get(key) != ours.get(key))
    if different:
        key = different[0]
        raise TrainingError(
            f"{path}: was written by another network ({key} {theirs.get(key)!r}, the recipe has "
            f"{ours.get(key)!r}); use another output folder or that network's recipe"
        )
    if recipe.lora is not None:
        _check_adapter(path, header["recipe"]["lora"], recipe.lora.to_dict())


def _check_adapter(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for key in ("rank", "alpha", "targets"):
        if theirs[key] != ours[key]:
            raise TrainingError(
                f"{path}: was written with lora.{key} {theirs[key]!r}, the recipe has "
                f"{ours[key]!r}; use another output folder or that value"
            )


def _format(recipe: Recipe) -> str:
    return FORMAT if recipe.lora is None else LORA_FORMAT


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
