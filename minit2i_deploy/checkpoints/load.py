"""load_checkpoint: a checkpoint of any form as weights under canonical names."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from minit2i_deploy.checkpoints.checkpoint import Checkpoint
from minit2i_deploy.checkpoints.find import find_checkpoint
from minit2i_deploy.checkpoints.form import ReadOptions
from minit2i_deploy.checkpoints.lora import merge_lora
from minit2i_deploy.checkpoints.lora_sources import Lora
from minit2i_deploy.errors import UsageError

ImageSize = int | tuple[int, int]


def load_checkpoint(
    path: str | PathLike[str],
    ema: bool | str = True,
    *,
    lora: Lora | None = None,
    image_size: ImageSize | None = None,
    prompt_length: int | None = None,
) -> Checkpoint:
    """Read a checkpoint of any form.

    Args:
        path: a checkpoint file or folder, or a folder that holds one checkpoint. The form is
            recognized by content, not by name.
        ema: True for the weights that are meant to be deployed: the EMA of a base model, the
            online weights of a few-step student. False for the online weights of either. A name
            such as "0.99995" for that EMA.
        lora: an adapter to merge, its folder or its safetensors file, or several with the
            strength of each: ``{"style": 0.8, "subject": 1.0}``.
        image_size: pixels of a side, or (width, height), of the images to generate, multiples of
            the patch. Without it they are as the weights were trained; a Flax checkpoint whose
            shapes match no published variant does not say, and needs it.
        prompt_length: text tokens; only for such a Flax checkpoint.

    Returns:
        Configuration, float32 tensors under canonical names, and a report of what was read.

    Raises:
        CheckpointError: the checkpoint cannot be read as a MiniT2I model.
        UsageError: an argument does not apply to this checkpoint.
        MissingDependencyError: the form needs a package that is not installed.
    """
    sides = (image_size,) if isinstance(image_size, int) else (image_size or ())
    numbers = [("image_size", side) for side in sides] + [("prompt_length", prompt_length)]
    for name, value in numbers:
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"{name}: expected a positive integer, got {value!r}")
    match = find_checkpoint(Path(path))
    height = sides[-1] if sides else None
    options = ReadOptions(ema=ema, image_size=height, prompt_length=prompt_length)
    checkpoint = match.form.read(match.path, options)
    if sides:
        checkpoint = checkpoint.with_image_size(sides[0], sides[-1])
    return checkpoint if lora is None else merge_lora(checkpoint, lora)
