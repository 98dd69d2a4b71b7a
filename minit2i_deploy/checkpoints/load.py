"""load_checkpoint: a checkpoint of any form as weights under canonical names."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from minit2i_deploy.checkpoints.checkpoint import Checkpoint
from minit2i_deploy.checkpoints.find import find_checkpoint
from minit2i_deploy.checkpoints.form import ReadOptions
from minit2i_deploy.checkpoints.lora import merge_lora
from minit2i_deploy.errors import UsageError


def load_checkpoint(
    path: str | PathLike[str],
    ema: bool | str = True,
    *,
    lora: str | PathLike[str] | None = None,
    image_size: int | None = None,
    prompt_length: int | None = None,
) -> Checkpoint:
    """Read a checkpoint of any form.

    Args:
        path: a checkpoint file or folder, or a folder that holds one checkpoint. The form is
            recognized by content, not by name.
        ema: True for the weights that are meant to be deployed: the EMA of a base model, the
            online weights of a few-step student. False for the online weights of either. A name
            such as "0.99995" for that EMA.
        lora: a PEFT adapter to merge: its folder, or its safetensors file.
        image_size: pixels; only for Flax checkpoints whose shapes match no published variant.
        prompt_length: text tokens; as image_size.

    Returns:
        Configuration, float32 tensors under canonical names, and a report of what was read.

    Raises:
        CheckpointError: the checkpoint cannot be read as a MiniT2I model.
        UsageError: an argument does not apply to this checkpoint.
        MissingDependencyError: the form needs a package that is not installed.
    """
    for name, value in {"image_size": image_size, "prompt_length": prompt_length}.items():
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"{name}: expected a positive integer, got {value!r}")
    match = find_checkpoint(Path(path))
    options = ReadOptions(ema=ema, image_size=image_size, prompt_length=prompt_length)
    checkpoint = match.form.read(match.path, options)
    return checkpoint if lora is None else merge_lora(checkpoint, Path(lora))
