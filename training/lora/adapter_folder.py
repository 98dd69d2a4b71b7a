"""A PEFT adapter folder: adapter_config.json and adapter_model.safetensors.

peft reads it for the official PyTorch model, ``load_checkpoint(base, lora=folder)`` for ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minit2i_deploy.checkpoints.lora_file import BASE_SHA256, ONE_PASS_GUIDANCE
from minit2i_deploy.errors import TrainingError, UsageError, require
from minit2i_deploy.io.files import atomic_directory, only_with
from minit2i_deploy.training.lora.targets import lora_targets
from minit2i_deploy.training.recipe.load import recipe_from_dict
from minit2i_deploy.training.recipe.recipe import Recipe

CONFIG_NAME: Final = "adapter_config.json"
WEIGHTS_NAME: Final = "adapter_model.safetensors"
# The official model holds the network as model.net, and peft puts its own two before it.
_PREFIX: Final = "base_model.model.model.net."
_DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def write_adapter(
    folder: Path,
    recipe: Recipe,
    tensors: Mapping[str, Tensor],
    base_sha256: str,
    precision: str = "fp32",
) -> None:
    """Write the two files into an existing folder.

    Args:
        folder: receives them.
        recipe: with ``lora`` set.
        tensors: ``adapter_parameters``' names and values, on any device.
        base_sha256: digest of the base's weights; a reader refuses the adapter for another base.
        precision: "fp32", "fp16" or "bf16".

    Raises:
        MissingDependencyError: peft is not installed.
        TrainingError: a weight is too large for the precision.
        UsageError: the precision is unknown.
    """
    if precision not in _DTYPES:
        raise UsageError(f"precision is {precision!r}, expected one of {', '.join(_DTYPES)}")
    weights = {
        _PREFIX + name: value.detach().cpu().to(_DTYPES[precision]).contiguous()
        for name, value in tensors.items()
    }
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise TrainingError(f"{folder}: {name} does not fit {precision}; use bf16 or fp32")
    text = json.dumps(adapter_config(recipe), indent=2, sort_keys=True) + "\n"
    (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
    # One key only: the library writes several in random order, and equal adapters must be equal
    # files.
    save_file(weights, folder / WEIGHTS_NAME, {BASE_SHA256: base_sha256})
    # The library makes it readable by its owner only, which is wrong for a file to be shared.
    (folder / WEIGHTS_NAME).chmod(0o644)


def adapter_config(recipe: Recipe) -> dict[str, Any]:
    """adapter_config.json's values, peft's own with every target by its full name.

    Raises:
        MissingDependencyError: peft is not installed.
    """
    assert recipe.lora is not None
    lora = recipe.lora
    config = require("peft", "train").LoraConfig(
        r=lora.rank,
        # peft declares an integer; it computes with either.
        lora_alpha=int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        base_model_name_or_path=Path(lora.base).name,
        inference_mode=True,
    )
    values: dict[str, Any] = config.to_dict()
    return values | {
        "peft_type": "LORA",
        "target_modules": list(lora_targets(recipe.model, lora.targets)),
        **({ONE_PASS_GUIDANCE: lora.guidance} if lora.learns_guidance else {}),
    }


def release_adapter(
    checkpoint: Path,
    target: Path,
    *,
    precision: str = "fp16",
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write only the adapter, in a smaller type, with adapter.json: step, base and recipe.

    Args:
        checkpoint: a ``step-NNNNNN`` folder of an adapter's run.
        target: folder to make.
        precision: "fp32", "fp16" or "bf16".
        notes: JSON values added to adapter.json, for example the measured score.
        overwrite: replace a folder that holds an earlier adapter.json.

    Raises:
        TrainingError: a weight is too large for the precision.
        UsageError: the precision is unknown, or the target exists already or cannot be written.
    """
    stored = load_file(checkpoint / WEIGHTS_NAME)
    tensors = {name.removeprefix(_PREFIX): value for name, value in stored.items()}
    header = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    recipe = recipe_from_dict(header["recipe"])
    # Folder names of the training machine mean nothing elsewhere.
    values = header["recipe"]
    for holder, key in ((values, "text_encoder"), (values, "tokenizer"), (values["lora"], "base")):
        holder[key] = Path(holder[key]).name
    origin = {key: header[key] for key in ("step", "base_sha256", "recipe")}
    text = json.dumps(origin | dict(notes or {}), indent=2, sort_keys=True) + "\n"
    with atomic_directory(target, overwrite=overwrite, check=only_with("adapter.json")) as partial:
        write_adapter(partial, recipe, tensors, header["base_sha256"], precision)
        (partial / "adapter.json").write_text(text, encoding="utf-8")
    return target
