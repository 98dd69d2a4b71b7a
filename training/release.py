"""Release of a training checkpoint: the averaged weights and their origin, in a smaller type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from minit2i_deploy.errors import TrainingError, UsageError
from minit2i_deploy.io.files import atomic_directory, only_with

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def release_checkpoint(
    checkpoint: Path,
    target: Path,
    *,
    precision: str = "fp16",
    notes: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write only ``checkpoint.json`` and ``ema.safetensors``, in a smaller type.

    Every reader takes the rounded weights as the model: parity is measured against them.

    Args:
        checkpoint: a ``step-NNNNNN`` folder of a run.
        target: folder to make.
        precision: "fp32", "fp16" or "bf16".
        notes: JSON values added to checkpoint.json, for example the measured score.
        overwrite: replace a folder that holds an earlier checkpoint.json.

    Raises:
        UsageError: the precision is unknown, the checkpoint is an adapter's, or the target exists
            already or cannot be written.
        TrainingError: a weight is too large for the type.
    """
    if precision not in DTYPES:
        raise UsageError(f"precision is {precision!r}, expected one of {', '.join(DTYPES)}")
    header = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    if "lora" in header["recipe"]:
        raise UsageError(f"{checkpoint}: is a checkpoint of an adapter; use release_adapter")
    tensors = {
        name: value.to(DTYPES[precision])
        for name, value in load_file(checkpoint / "ema.safetensors").items()
    }
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise TrainingError(f"{checkpoint}: {name} does not fit {precision}; use bf16 or fp32")
    # Folder names of the training machine mean nothing elsewhere.
    for key in ("text_encoder", "tokenizer", "start_from"):
        header["recipe"][key] = Path(header["recipe"].get(key, "")).name
    if "distill" in header["recipe"]:
        distill = header["recipe"]["distill"]
        for key in ("teacher", "former_teacher"):
            distill[key] = Path(distill.get(key, "")).name
    header |= notes or {}
    with atomic_directory(
        target, overwrite=overwrite, check=only_with("checkpoint.json")
    ) as partial:
        save_file(tensors, partial / "ema.safetensors")
        # The library makes it readable by its owner only, which is wrong for a file to be shared.
        (partial / "ema.safetensors").chmod(0o644)
        text = json.dumps(header, indent=2, sort_keys=True) + "\n"
        (partial / "checkpoint.json").write_text(text, encoding="utf-8")
    return target
