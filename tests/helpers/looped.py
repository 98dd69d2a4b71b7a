"""Looped-DiT's golden checkpoints and outputs."""

from __future__ import annotations

import atexit
import functools
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from minit2i_deploy.checkpoints import Checkpoint, load_checkpoint
from tests.helpers.tiny_bundle import text_folder

LOOPED = Path(__file__).parent.parent / "golden" / "looped"


@functools.cache
def looped_root() -> Path:
    """The folder that weights.tar.xz was unpacked to, once a test process."""
    folder = Path(tempfile.mkdtemp(prefix="minit2i-looped-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(LOOPED / "weights.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def looped_pt(variant: str = "") -> Path:
    """The training state of the base model, or of the variant "gate" or "untied"."""
    return looped_root() / "pt" / f"looped-dit-tiny{variant and '-' + variant}.pt"


def looped_folder() -> Path:
    """The diffusers folder of the base model."""
    return looped_root() / "diffusers"


@functools.cache
def looped_checkpoint(variant: str = "") -> Checkpoint:
    return load_checkpoint(looped_pt(variant))


@functools.cache
def looped_bundle() -> Path:
    """The base model with two loops, in fp32. Do not write into it; copy it."""
    from minit2i_deploy.export import ExportOptions, export_bundle

    options = ExportOptions(text_encoder=text_folder(), loops=2)
    return export_bundle(looped_pt(), looped_root() / "bundle", options).path


def looped_arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(LOOPED / "arrays" / f"{name}.npz") as file:
        return dict(file)
