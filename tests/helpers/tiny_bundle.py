"""The golden network and its golden T5, exported once a test process."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from tests.helpers.checkpoint_forms import PUBLIC, hub_folder
from tests.helpers.tiny_tokenizer import write_tokenizer


@functools.cache
def bundles_folder() -> Path:
    """A folder for bundles of this process."""
    folder = Path(tempfile.mkdtemp(prefix="minit2i-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def text_folder() -> Path:
    """A folder with text_encoder/ and tokenizer/, as ``--text-encoder`` takes it."""
    folder = bundles_folder() / "text"
    shutil.copytree(PUBLIC / "t5" / "text_encoder", folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    return folder


@functools.cache
def tiny_bundle() -> Path:
    """The fp32 bundle of ``checkpoint_forms.hub_folder``. Do not write into it; copy it."""
    from minit2i_deploy.export import ExportOptions, export_bundle

    bundle = export_bundle(
        hub_folder(), bundles_folder() / "bundle", ExportOptions(text_encoder=text_folder())
    )
    return bundle.path


def overflowing(data_file: Path) -> None:
    """Make a T5's last feed-forward overflow, as its numbers do in half precision."""
    data = bytearray(data_file.read_bytes())
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    name = max(name for name in header if name.endswith("DenseReluDense.wo.weight"))
    begin, end = (8 + header_bytes + offset for offset in header[name]["data_offsets"])
    data[begin:end] = np.full((end - begin) // 4, 3e38, np.float32).tobytes()
    data_file.write_bytes(data)
