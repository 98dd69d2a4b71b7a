"""The golden network and its golden T5, exported once a test process."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from checkpoint_forms import PUBLIC, hub_folder
from tiny_tokenizer import write_tokenizer


@functools.cache
def _root() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="minit2i-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def text_folder() -> Path:
    """A folder with text_encoder/ and tokenizer/, as ``--text-encoder`` takes it."""
    folder = _root() / "text"
    shutil.copytree(PUBLIC / "t5" / "text_encoder", folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    return folder


@functools.cache
def tiny_bundle() -> Path:
    """The fp32 bundle of ``checkpoint_forms.hub_folder``. Do not write into it; copy it."""
    from minit2i_deploy.export import export_bundle

    bundle = export_bundle(hub_folder(), _root() / "bundle", text_encoder=text_folder())
    return bundle.path
