"""MiniT2I checkpoints of every form, read into weights under one set of names."""

from minit2i_deploy.checkpoints.canonical_names import canonical_shapes, linear_modules
from minit2i_deploy.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointReport,
    Dropped,
    LoraReport,
)
from minit2i_deploy.checkpoints.load import load_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointReport",
    "Dropped",
    "LoraReport",
    "canonical_shapes",
    "linear_modules",
    "load_checkpoint",
]
