"""Readers for every form a MiniT2I checkpoint comes in, onto one set of names."""

from minit2i_deploy.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointReport,
    Dropped,
    LoraReport,
)
from minit2i_deploy.checkpoints.load import load_checkpoint
from minit2i_deploy.checkpoints.names import canonical_shapes, linear_modules

__all__ = [
    "Checkpoint",
    "CheckpointReport",
    "Dropped",
    "LoraReport",
    "canonical_shapes",
    "linear_modules",
    "load_checkpoint",
]
