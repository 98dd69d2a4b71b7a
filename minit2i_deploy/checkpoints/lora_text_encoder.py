"""Adapters of the text encoder: carried beside a checkpoint, merged once the encoder is open.

A checkpoint holds the network alone, so the pairs wait in it for whoever opens its text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minit2i_deploy.checkpoints.lora_file import AdapterFile
from minit2i_deploy.checkpoints.lora_names import is_t5_matrix
from minit2i_deploy.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class TextEncoderAdapter:
    """The part of one adapter for the text encoder, and how strongly it is merged."""

    file: AdapterFile
    strength: float


def merge_into_text_encoder(
    tensors: Mapping[str, np.ndarray], adapters: Sequence[TextEncoderAdapter], encoder: str
) -> None:
    """Add strength * scale * B @ A to the matrices of a T5 encoder, in place.

    Args:
        tensors: all of the encoder's, float32 and writable, under transformers' names.
        adapters: in the order in which they are added.
        encoder: its folder, for messages.

    Raises:
        CheckpointError: a pair fits no matrix, or a targeted matrix has no pair.
    """
    matrices = {
        name.removesuffix(".weight"): value
        for name, value in tensors.items()
        if is_t5_matrix(name.removesuffix(".weight"))
    }
    shapes = {module: value.shape for module, value in matrices.items()}
    for adapter in adapters:
        _check_fits(adapter.file, shapes, encoder)
    for adapter in adapters:
        for module, pair in adapter.file.text_encoder.pairs.items():
            matrices[module] += pair.update(adapter.strength)


def _check_fits(file: AdapterFile, shapes: Mapping[str, tuple[int, ...]], encoder: str) -> None:
    """Check that every pair has its matrix, and every targeted matrix its pair."""
    part = file.text_encoder
    wrong = [
        f"{module} {list(pair.shape)} (encoder: {list(shapes.get(module, ())) or 'none'})"
        for module, pair in sorted(part.pairs.items())
        if pair.shape != shapes.get(module)
    ]
    wrong += [f"{module} (not in the adapter)" for module in part.missing(list(shapes))]
    if wrong:
        raise CheckpointError(
            f"{file.path}: an adapter for another text encoder than {encoder}: {len(wrong)} "
            f"modules differ: {', '.join(wrong)}; give the text encoder it was trained on"
        )
